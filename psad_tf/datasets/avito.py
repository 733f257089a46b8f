"""Avito Context Ad Clicks: searches of a classifieds site with the ads shown and clicked.

Source: the Kaggle competition of that name (2015). Its folder holds tab-separated files: `SearchInfo.tsv`
(a search), `trainSearchStream.tsv` (an ad shown in a search), `AdsInfo.tsv`, `UserInfo.tsv`, and
optionally `VisitsStream.tsv` and `PhoneRequestsStream.tsv` (other interactions of users with ads).

A list is one search: its ads in the order of `Position`. Clicks were recorded for contextual ads only
(`IsClick` is empty for the others), so only these are candidates. `initial_score` is minus the position;
`hist_ctr` is the platform's click rate of the ad at the time.

The two big files are joined by search through files partitioned by `SearchID` in a temporary folder, so
memory holds one partition at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import tempfile
from collections.abc import Iterator

from psad_tf.data.records import Candidate, Impression, Interaction, Value
from psad_tf.datasets.raw_data import RawData
from psad_tf.datasets.tables import Row, identifier, number, read_table
from psad_tf.errors import InputError
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
)

SHORTEST_LIST = 2
_SEARCH = ("SearchID", "SearchDate", "UserID", "IsUserLoggedOn", "SearchQuery", "LocationID", "CategoryID")
_SHOWN = ("SearchID", "AdID", "Position", "HistCTR", "IsClick")
_WHERE = "where"
_USER = {
    "UserAgentID": "user_agent",
    "UserAgentOSID": "user_agent_os",
    "UserDeviceID": "user_device",
    "UserAgentFamilyID": "user_agent_family",
}
_OTHER_STREAMS = {
    "VisitsStream.tsv": ("ViewDate", "visit"),
    "PhoneRequestsStream.tsv": ("PhoneRequestDate", "phone_request"),
}

DECLARATION = FeatureDeclaration(
    context_categorical=(
        CategoricalFeature("user_id"),
        CategoricalFeature("logged_on"),
        CategoricalFeature("search_location"),
        CategoricalFeature("search_category", vocabulary="category"),
        CategoricalFeature("request_hour"),
        *(CategoricalFeature(name) for name in _USER.values()),
    ),
    context_dense=(DenseFeature("query_words", "log1p_standardize"),),
    history=HistoryDeclaration(
        length=50,
        categorical=(
            CategoricalFeature("item_id"),
            CategoricalFeature("ad_category", vocabulary="category"),
        ),
    ),
    candidate_categorical=(
        CategoricalFeature("item_id"),
        CategoricalFeature("ad_category", vocabulary="category"),
    ),
    candidate_dense=(
        DenseFeature("hist_ctr", "log1p_standardize"),
        DenseFeature("price", "log1p_standardize"),
    ),
    label=LabelDeclaration(grades=(LabelRule("click", 1.0, 1),)),
)


def read_avito(folder: str | os.PathLike[str], partitions: int = 64) -> RawData:
    """Reads the competition's folder.

    Args:
        folder: Holds the files named above.
        partitions: Parts that the join is made in; memory is about the files' size divided by it.

    Returns:
        Lists without a split (it is made by time later). The interactions are the clicks and, where
        their files are there, visits and phone requests.

    Raises:
        InputError: A file or column is missing (at once), or a row is not of the published form or its
            search is missing (when the records are gone through).
    """
    root = pathlib.Path(folder)
    for name in ("SearchInfo.tsv", "trainSearchStream.tsv", "AdsInfo.tsv", "UserInfo.tsv"):
        if not (root / name).is_file():
            raise InputError(f"{root / name}: no such file (the competition's unpacked files are wanted)")
    return RawData(
        declaration=DECLARATION,
        impressions=(each for each in _searches(root, partitions) if len(each.candidates) >= SHORTEST_LIST),
        interactions=_interactions(root, partitions),
        users=_users(root / "UserInfo.tsv"),
        items=_items(root / "AdsInfo.tsv"),
    )


def _table(path: pathlib.Path, needed: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    return read_table(path, needed, delimiter="\t", quoted=False)


def _searches(root: pathlib.Path, partitions: int) -> Iterator[Impression]:
    """Every search that has a contextual ad, partition by partition."""
    with tempfile.TemporaryDirectory(prefix="psad-avito-") as temporary:
        searches = _partition(root / "SearchInfo.tsv", _SEARCH, temporary, partitions)
        shown = _partition(root / "trainSearchStream.tsv", _SHOWN, temporary, partitions)
        for search_part, shown_part in zip(searches, shown, strict=True):
            ads: dict[str, list[tuple[float, Candidate]]] = {}
            for _, row in _table(shown_part, (*_SHOWN, _WHERE)):
                if row["IsClick"]:
                    ads.setdefault(row["SearchID"], []).append(_candidate(row, row[_WHERE]))
            missing = set(ads)
            for _, row in _table(search_part, (*_SEARCH, _WHERE)):
                if row["SearchID"] in ads:
                    missing.discard(row["SearchID"])
                    yield _search(row, ads[row["SearchID"]], row[_WHERE])
            if missing:
                path, search_id = root / "SearchInfo.tsv", min(missing)
                raise InputError(f"{path}: no search {search_id!r}, whose ads trainSearchStream.tsv shows")


def _partition(
    path: pathlib.Path, columns: tuple[str, ...], folder: str, partitions: int
) -> list[pathlib.Path]:
    """Splits a table's rows by SearchID; each part has a header, the wanted columns and the rows' places."""
    parts = [pathlib.Path(folder) / f"{path.stem}-{part:03d}.tsv" for part in range(partitions)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(part, "w", encoding="utf-8")) for part in parts]
        for file in files:
            file.write("\t".join((*columns, _WHERE)) + "\n")
        for where, row in _table(path, columns):
            file = files[int(number(row, "SearchID", where)) % partitions]
            file.write("\t".join((*(row[column] for column in columns), where)) + "\n")
    return parts


def _candidate(row: Row, where: str) -> tuple[float, Candidate]:
    position = number(row, "Position", where)
    features = {"hist_ctr": number(row, "HistCTR", where)} if row["HistCTR"] else {}
    feedback = {"click": number(row, "IsClick", where)}
    return position, Candidate(identifier(row, "AdID", where), -position, feedback, features)


def _search(row: Row, ads: list[tuple[float, Candidate]], where: str) -> Impression:
    shown: dict[str, Candidate] = {}
    for _, candidate in sorted(ads, key=lambda each: each[0]):
        shown.setdefault(candidate.item_id, candidate)
    return Impression(
        request_id=row["SearchID"],
        user_id=identifier(row, "UserID", where),
        time=_time(row, "SearchDate", where),
        candidates=tuple(
            dataclasses.replace(candidate, position=position)
            for position, candidate in enumerate(shown.values())
        ),
        context={
            "logged_on": row["IsUserLoggedOn"],
            "search_location": row["LocationID"],
            "search_category": row["CategoryID"],
            "query_words": float(len(row["SearchQuery"].split())),
        },
    )


def _interactions(root: pathlib.Path, partitions: int) -> Iterator[Interaction]:
    for impression in _searches(root, partitions):
        for candidate in impression.candidates:
            if candidate.feedback["click"]:
                yield Interaction(impression.user_id, candidate.item_id, impression.time, {"click": 1.0})
    for name, (column, feedback) in _OTHER_STREAMS.items():
        if (root / name).is_file():
            for where, row in _table(root / name, ("UserID", "AdID", column)):
                user_id, item_id = identifier(row, "UserID", where), identifier(row, "AdID", where)
                yield Interaction(user_id, item_id, _time(row, column, where), {feedback: 1.0})


def _users(path: pathlib.Path) -> Iterator[dict[str, Value]]:
    for where, row in _table(path, ("UserID", *_USER)):
        values = {name: row[column] for column, name in _USER.items()}
        yield {"user_id": identifier(row, "UserID", where), **values}


def _items(path: pathlib.Path) -> Iterator[dict[str, Value]]:
    for where, row in _table(path, ("AdID", "CategoryID", "Price")):
        item: dict[str, Value] = {"item_id": identifier(row, "AdID", where), "ad_category": row["CategoryID"]}
        if row["Price"]:
            item["price"] = number(row, "Price", where)
        yield item


def _time(row: Row, column: str, where: str) -> int:
    """Seconds of `2015-05-01 00:00:00.0`; the files do not name the zone, it is taken as UTC."""
    try:
        moment = datetime.datetime.strptime(row[column], "%Y-%m-%d %H:%M:%S.%f")
    except ValueError:
        raise InputError(f"{where}: {column}: {row[column]!r} is not a time") from None
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())
