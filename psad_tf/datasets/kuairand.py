"""KuaiRand: impressions of short videos with many kinds of feedback.

Source: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos"
(CIKM 2022), versions Pure and 1K. Its data folder holds `log_standard_*.csv`, one impression a row,
`user_features_*.csv` and `video_features_basic_*.csv`; the random log and the statistics over the whole
month (they know the future) are not read.

The log has no request ids: a list is a run of a user's impressions in one `tab`, cut where more than
`gap_seconds` pass and after 20, in the order shown. The platform's own score is not published, so
`initial_score` is minus the position. The logs are held in memory: about 1 KB an impression.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from psad_tf.data.records import Candidate, Impression, Interaction, Value
from psad_tf.datasets.raw_data import RawData
from psad_tf.datasets.tables import cut_sessions, identifier, number, read_table
from psad_tf.errors import InputError
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
    LabelDeclaration,
    LabelRule,
    NegativeRule,
)

MAX_LIST_LENGTH = 20
SHORTEST_LIST = 5
TAG_WIDTH = 3
_FEEDBACK = (
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms",
)  # fmt: skip
_USER_CATEGORICAL = (
    "user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
    "register_days_range",
)  # fmt: skip
_USER_DENSE = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_ITEM_CATEGORICAL = ("author_id", "video_type", "upload_type", "music_type")

DECLARATION = FeatureDeclaration(
    context_categorical=(
        CategoricalFeature("user_id"),
        CategoricalFeature("tab"),
        CategoricalFeature("request_hour"),
        *(CategoricalFeature(name) for name in _USER_CATEGORICAL),
    ),
    context_dense=tuple(DenseFeature(name, "log1p_standardize") for name in _USER_DENSE),
    history=HistoryDeclaration(
        length=50,
        categorical=(
            CategoricalFeature("item_id"),
            CategoricalFeature("author_id"),
            CategoricalFeature("tag", width=TAG_WIDTH),
        ),
        dense=(DenseFeature("long_view", "none"), DenseFeature("age_seconds", "log1p_standardize")),
    ),
    candidate_categorical=(
        CategoricalFeature("item_id"),
        CategoricalFeature("tag", width=TAG_WIDTH),
        *(CategoricalFeature(name) for name in _ITEM_CATEGORICAL),
    ),
    candidate_dense=(DenseFeature("video_duration", "log1p_standardize"),),
    label=LabelDeclaration(
        grades=(LabelRule("is_click", 1.0, 1), LabelRule("long_view", 1.0, 2)),
        negatives=(NegativeRule("not_hated", 0.0),),
    ),
)

_Event = tuple[int, str, str, tuple[float, ...]]


def read_kuairand(folder: str | os.PathLike[str], gap_seconds: float = 300.0) -> RawData:
    """Reads a KuaiRand data folder.

    Args:
        folder: Holds the files, of any version.
        gap_seconds: A longer pause ends a list.

    Returns:
        Lists without a split (it is made by time later); the interactions are the clicked or long-viewed
        impressions.

    Raises:
        InputError: A file is missing, or a row is not of the published form.
    """
    root = pathlib.Path(folder)
    events = _by_user(_files(root, "log_standard_*.csv"))
    return RawData(
        declaration=DECLARATION,
        impressions=(
            impression
            for user_id, user_events in events.items()
            for impression in _lists(user_id, user_events, gap_seconds)
        ),
        interactions=(
            Interaction(user_id, item_id, time_ms // 1000, _feedback(values))
            for user_id, user_events in events.items()
            for time_ms, item_id, _, values in user_events
            if values[_FEEDBACK.index("is_click")] or values[_FEEDBACK.index("long_view")]
        ),
        users=_users(_files(root, "user_features_*.csv")),
        items=_items(_files(root, "video_features_basic_*.csv")),
    )


def _files(root: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    found = sorted(root.glob(pattern))
    if not found:
        raise InputError(f"{root}: no {pattern} here (KuaiRand's data folder is wanted)")
    return found


def _by_user(paths: list[pathlib.Path]) -> dict[str, list[_Event]]:
    users: dict[str, list[_Event]] = {}
    for path in paths:
        for where, row in read_table(path, ("user_id", "video_id", "time_ms", "tab", *_FEEDBACK)):
            values = tuple(number(row, name, where) for name in _FEEDBACK)
            time = int(number(row, "time_ms", where))
            event = (time, identifier(row, "video_id", where), row["tab"], values)
            users.setdefault(identifier(row, "user_id", where), []).append(event)
    for events in users.values():
        events.sort(key=lambda event: event[0])
    return users


def _lists(user_id: str, events: list[_Event], gap_seconds: float) -> Iterator[Impression]:
    for tab in sorted({event[2] for event in events}):
        of_tab = [event for event in events if event[2] == tab]
        for start, stop in cut_sessions([event[0] / 1000 for event in of_tab], gap_seconds, MAX_LIST_LENGTH):
            shown: dict[str, _Event] = {}
            for event in of_tab[start:stop]:
                shown.setdefault(event[1], event)
            if len(shown) < SHORTEST_LIST:
                continue
            time_ms = of_tab[start][0]
            yield Impression(
                request_id=f"{user_id}-{tab}-{time_ms}-{start}",
                user_id=user_id,
                time=time_ms // 1000,
                candidates=tuple(
                    Candidate(item_id, float(-position), _feedback(event[3]), position=position)
                    for position, (item_id, event) in enumerate(shown.items())
                ),
                context={"tab": tab},
            )


def _feedback(values: tuple[float, ...]) -> dict[str, float]:
    """The feedback by name; `not_hated` is there so that a rule of the form "at most" can ask for hate."""
    feedback = dict(zip(_FEEDBACK, values, strict=True))
    return {**feedback, "not_hated": 1.0 - feedback["is_hate"]}


def _users(paths: list[pathlib.Path]) -> Iterator[dict[str, Value]]:
    for path in paths:
        for where, row in read_table(path, ("user_id", *_USER_CATEGORICAL, *_USER_DENSE)):
            user: dict[str, Value] = {"user_id": identifier(row, "user_id", where)}
            user |= {name: row[name] for name in _USER_CATEGORICAL}
            user |= {name: number(row, name, where) for name in _USER_DENSE if row[name]}
            yield user


def _items(paths: list[pathlib.Path]) -> Iterator[dict[str, Value]]:
    for path in paths:
        for where, row in read_table(path, ("video_id", "video_duration", "tag", *_ITEM_CATEGORICAL)):
            item: dict[str, Value] = {"item_id": identifier(row, "video_id", where)}
            item |= {name: row[name] for name in _ITEM_CATEGORICAL}
            item["tag"] = [tag for tag in row["tag"].split(",") if tag]
            if row["video_duration"]:
                item["video_duration"] = number(row, "video_duration", where)
            yield item
