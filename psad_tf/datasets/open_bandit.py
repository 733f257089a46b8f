"""The Open Bandit Dataset's sample: real impressions, positions and clicks of a fashion shop.

Source: Saito, Aihara, Matsutani and Narita, "Open Bandit Dataset and Pipeline" (NeurIPS Datasets and
Benchmarks 2021). A folder `<policy>/<campaign>/` holds `<campaign>.csv`, one impression of one item a row,
and `item_context.csv`.

The log has neither user nor request ids, and the sample keeps one impression in hundreds. So `user_id`
is the user's four (hashed) features together, a segment of users, and a list is a session of it: its
impressions with at most `gap_seconds` between one and the next. The order is the logging policy's
propensity, largest first. `position` is the place in the order in which the session's items were shown: by
time, then by the log's slot (1 to 3, left to right), since a session has several pages, each with its own
slots. The log's slot goes along as `page_slot`, undeclared, for off-policy estimates. Clicks are rare (4 in
1,000): this is for trying the path on real logs.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Iterator, Mapping

from psad_tf.data.records import Candidate, Impression, Interaction, Value
from psad_tf.datasets.raw_data import RawData
from psad_tf.datasets.tables import Row, cut_sessions, identifier, number, read_table
from psad_tf.errors import InputError
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
)

CAMPAIGNS = ("all", "men", "women")
MAX_LIST_LENGTH = 20
SHORTEST_LIST = 2
_USER_COLUMNS = tuple(f"user_feature_{index}" for index in range(4))
_ITEM_COLUMNS = tuple(f"item_feature_{index}" for index in range(4))
_LOG_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *_USER_COLUMNS)

DECLARATION = FeatureDeclaration(
    context_categorical=(
        CategoricalFeature("user_id"),
        CategoricalFeature("campaign"),
        CategoricalFeature("request_hour"),
        *(CategoricalFeature(name) for name in _USER_COLUMNS),
    ),
    context_dense=(),
    history=HistoryDeclaration(length=20),
    candidate_categorical=(
        CategoricalFeature("item_id"),
        *(CategoricalFeature(name) for name in _ITEM_COLUMNS[1:]),
    ),
    candidate_dense=(
        DenseFeature("initial_score"),
        DenseFeature(_ITEM_COLUMNS[0]),
        DenseFeature("user_item_affinity"),
    ),
    label=LabelDeclaration(grades=(LabelRule("click", 1.0, 1),)),
)

_Event = tuple[float, str, Row, str]


def read_open_bandit(
    folder: str | os.PathLike[str], policy: str = "bts", gap_seconds: float = 600.0
) -> RawData:
    """Reads the campaigns that are there of one logging policy.

    Args:
        folder: Holds `<policy>/<campaign>/`.
        policy: `bts` (Bernoulli Thompson sampling) or `random`.
        gap_seconds: A longer pause ends a session.

    Raises:
        InputError: No campaign is there, or a row is not of the published form.
    """
    root = pathlib.Path(folder) / policy
    campaigns = [name for name in CAMPAIGNS if (root / name / f"{name}.csv").is_file()]
    if not campaigns:
        raise InputError(f"{root}: no campaign here (expected {root / 'all' / 'all.csv'} or another's)")
    users: dict[str, dict[str, str]] = {}
    items: list[dict[str, Value]] = []
    impressions: list[Impression] = []
    for campaign in campaigns:
        items += _items(root / campaign / "item_context.csv", campaign)
        for user_id, events in _by_user(root / campaign / f"{campaign}.csv", campaign).items():
            users[user_id] = {name: events[0][2][name] for name in _USER_COLUMNS}
            impressions += _sessions(user_id, campaign, events, gap_seconds)
    clicks = [
        Interaction(impression.user_id, candidate.item_id, impression.time, {"click": 1.0})
        for impression in impressions
        for candidate in impression.candidates
        if candidate.feedback["click"]
    ]
    user_records = [{"user_id": user_id, **values} for user_id, values in users.items()]
    return RawData(DECLARATION, impressions, clicks, user_records, items)


def _items(path: pathlib.Path, campaign: str) -> Iterator[dict[str, Value]]:
    for where, row in read_table(path, ("item_id", *_ITEM_COLUMNS)):
        yield {
            "item_id": f"{campaign}-{identifier(row, 'item_id', where)}",
            _ITEM_COLUMNS[0]: number(row, _ITEM_COLUMNS[0], where),
            **{name: row[name] for name in _ITEM_COLUMNS[1:]},
        }


def _by_user(path: pathlib.Path, campaign: str) -> Mapping[str, list[_Event]]:
    users: dict[str, list[_Event]] = {}
    for where, row in read_table(path, _LOG_COLUMNS):
        user_id = "-".join(row[name][:8] for name in _USER_COLUMNS)
        try:
            moment = datetime.datetime.fromisoformat(row["timestamp"])
        except ValueError:
            raise InputError(f"{where}: timestamp: {row['timestamp']!r} is not a time") from None
        if moment.tzinfo is None:  # else it would be read in the zone of this machine
            moment = moment.replace(tzinfo=datetime.UTC)
        time = moment.timestamp()
        item_id = f"{campaign}-{identifier(row, 'item_id', where)}"
        users.setdefault(user_id, []).append((time, item_id, row, where))
    for events in users.values():
        events.sort(key=lambda event: event[0])
    return users


def _sessions(user_id: str, campaign: str, events: list[_Event], gap_seconds: float) -> Iterator[Impression]:
    for start, stop in cut_sessions([event[0] for event in events], gap_seconds, MAX_LIST_LENGTH):
        shown: dict[str, Candidate] = {}
        in_order = sorted(events[start:stop], key=lambda event: (event[0], event[2]["position"]))
        for _, item_id, row, where in in_order:
            candidate = _candidate(item_id, row, where)
            earlier = shown.get(item_id)
            if earlier is None or candidate.feedback["click"] > earlier.feedback["click"]:
                shown[item_id] = candidate
        if len(shown) < SHORTEST_LIST:
            continue
        time = int(events[start][0])
        yield Impression(
            request_id=f"{campaign}-{user_id}-{time}-{start}",
            user_id=user_id,
            time=time,
            candidates=tuple(
                dataclasses.replace(candidate, position=position)
                for position, candidate in sorted(
                    enumerate(shown.values()), key=lambda each: -each[1].initial_score
                )
            ),
            context={"campaign": campaign},
        )


def _candidate(item_id: str, row: Row, where: str) -> Candidate:
    affinity = f"user-item_affinity_{row['item_id']}"
    features: dict[str, Value] = {"page_slot": row["position"]}
    if affinity in row:
        features["user_item_affinity"] = number(row, affinity, where)
    return Candidate(
        item_id=item_id,
        initial_score=number(row, "propensity_score", where),
        feedback={"click": number(row, "click", where)},
        features=features,
    )
