"""KuaiRand: impressions of short videos with many kinds of feedback.

Source: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos"
(CIKM 2022), versions Pure and 1K. Its data folder holds `log_standard_*.csv`, one impression a row,
`user_features_*.csv` and `video_features_basic_*.csv`, each also as `.csv.gz`; the random log and the
statistics over the whole month (they know the future) are not read. Where a `user_history_*.csv` lies beside
them (a user's last videos before the log begins: `watch_seq`, `long_watch_seq`, `last_time_ms`), histories
begin with it; it has the time of the last video alone, so the others are counted back from that, second by
second.

The log has no request ids: a list is a run of a user's impressions in one `tab`, cut where more than
`gap_seconds` pass and after 20, in the order shown. The platform's own score is not published, so
`initial_score` is minus the position; or, with `DateSplits`, the two-tower model's predicted relevance
(`psad_tf.datasets.retrieval`), which is trained on the log's first days, of which no lists are made. The
logs are held in memory: about 1 KB an impression.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

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


class _Event(NamedTuple):
    """One impression of one video."""

    time_ms: int
    item_id: str
    tab: str
    values: tuple[float, ...]  # of _FEEDBACK
    date: str


@dataclasses.dataclass(frozen=True)
class DateSplits:
    """What the dates of the log are for, by its own `date` (days of China Standard Time).

    Args:
        lists_from: First date of lists, YYYYMMDD; the days before train the upstream model and nothing else.
        valid_from: First date of the validation lists.
        test_from: First date of the test lists.

    Raises:
        InputError: The dates are not in this order.
    """

    lists_from: str
    valid_from: str
    test_from: str

    def __post_init__(self) -> None:
        dates = dataclasses.astuple(self)
        if any(len(date) != 8 or not date.isdigit() for date in dates) or not sorted(set(dates)) == list(
            dates
        ):
            raise InputError(f"split dates: must be three rising dates like 20220505, got {' '.join(dates)}")

    def split(self, date: str) -> str:
        """`train`, `valid` or `test`."""
        return "train" if date < self.valid_from else "valid" if date < self.test_from else "test"


def read_kuairand(
    folder: str | os.PathLike[str], gap_seconds: float = 300.0, dates: DateSplits | None = None, seed: int = 0
) -> RawData:
    """Reads a KuaiRand data folder.

    Args:
        folder: Holds the files, of any version.
        gap_seconds: A longer pause ends a list.
        dates: Splits by date, and the upstream model's order; None keeps the order shown and leaves the
            splits to the preprocessing.
        seed: Of the upstream model.

    Returns:
        The lists; the interactions are the clicked or long-viewed impressions, and the earlier ones of the
        history file.

    Raises:
        InputError: A file is missing, a row is not of the published form, or no impression is left for the
            upstream model or for the lists.
    """
    root = pathlib.Path(folder)
    events = _by_user(_files(root, "log_standard_*.csv"), dated=dates is not None)
    history = list(_histories(_files(root, "user_history_*.csv", needed=False)))
    users = list(_users(_files(root, "user_features_*.csv")))
    items = list(_items(_files(root, "video_features_basic_*.csv")))
    if dates is None:
        impressions: Iterable[Impression] = (
            impression
            for user_id, user_events in events.items()
            for impression in _lists(user_id, user_events, gap_seconds)
        )
        declaration = DECLARATION
    else:
        impressions = _ordered(events, users, items, gap_seconds, dates, seed)
        declaration = dataclasses.replace(
            DECLARATION,
            candidate_dense=(*DECLARATION.candidate_dense, DenseFeature("initial_score")),
        )
    return RawData(
        declaration=declaration,
        impressions=impressions,
        interactions=(
            *history,
            *(
                Interaction(user_id, event.item_id, event.time_ms // 1000, _feedback(event.values))
                for user_id, user_events in events.items()
                for event in user_events
                if _grade(event)
            ),
        ),
        users=users,
        items=items,
    )


def _ordered(
    events: Mapping[str, list[_Event]],
    users: Sequence[Mapping[str, Value]],
    items: Sequence[Mapping[str, Value]],
    gap_seconds: float,
    dates: DateSplits,
    seed: int,
) -> list[Impression]:
    """The lists of the days from `lists_from` on, in the order of an upstream model of the days before."""
    from psad_tf.datasets.retrieval import Ratings, RetrievalConfig, train_retrieval  # TensorFlow

    early = [(user_id, each) for user_id, of in events.items() for each in of if each.date < dates.lists_from]
    ratings = Ratings(
        user_ids=[user_id for user_id, _ in early],
        item_ids=[event.item_id for _, event in early],
        ratings=[float(_grade(event)) for _, event in early],
    )
    model = train_retrieval(
        ratings,
        {str(user["user_id"]): user for user in users},
        {str(item["item_id"]): item for item in items},
        _USER_CATEGORICAL,
        ("tag", *_ITEM_CATEGORICAL),
        RetrievalConfig(liked_at_least=1.0, seed=seed),
    )
    lists = []
    for user_id, of_user in events.items():
        for split in ("train", "valid", "test"):
            part = [e for e in of_user if e.date >= dates.lists_from and dates.split(e.date) == split]
            lists += [dataclasses.replace(each, split=split) for each in _lists(user_id, part, gap_seconds)]
    if not lists:
        raise InputError(f"split dates: no list of {SHORTEST_LIST} impressions from {dates.lists_from} on")
    scores = iter(
        model.score(
            [each.user_id for each in lists for _ in each.candidates],
            [candidate.item_id for each in lists for candidate in each.candidates],
        ).rating
    )
    ordered = []
    for each in lists:
        scored = [dataclasses.replace(c, initial_score=float(next(scores))) for c in each.candidates]
        scored.sort(key=lambda candidate: -candidate.initial_score)
        ordered.append(dataclasses.replace(each, candidates=tuple(scored)))
    return ordered


def _files(root: pathlib.Path, pattern: str, needed: bool = True) -> list[pathlib.Path]:
    found = sorted([*root.glob(pattern), *root.glob(f"{pattern}.gz")])
    if needed and not found:
        raise InputError(f"{root}: no {pattern} here (KuaiRand's data folder is wanted)")
    return found


def _grade(event: _Event) -> int:
    """0, 1 for a click, 2 for a long view: the label rules of the declaration."""
    long_view, click = (event.values[_FEEDBACK.index(name)] for name in ("long_view", "is_click"))
    return 2 if long_view else 1 if click else 0


def _histories(paths: list[pathlib.Path]) -> Iterator[Interaction]:
    """What users watched before the log begins, oldest first in the file."""
    watched = dict.fromkeys(_FEEDBACK, 0.0) | {"is_click": 1.0}
    for path in paths:
        for where, row in read_table(path, ("user_id", "last_time_ms", "watch_seq", "long_watch_seq")):
            videos, long = row["watch_seq"].split(), set(row["long_watch_seq"].split())
            last = int(number(row, "last_time_ms", where)) // 1000
            for back, video in enumerate(reversed(videos)):
                values = {**watched, "long_view": float(video in long)}
                yield Interaction(
                    identifier(row, "user_id", where), video, last - back, {**values, "not_hated": 1.0}
                )


def _by_user(paths: list[pathlib.Path], dated: bool) -> dict[str, list[_Event]]:
    columns = ("user_id", "video_id", "time_ms", "tab", *_FEEDBACK, *(["date"] if dated else []))
    users: dict[str, list[_Event]] = {}
    for path in paths:
        for where, row in read_table(path, columns):
            values = tuple(number(row, name, where) for name in _FEEDBACK)
            time = int(number(row, "time_ms", where))
            date = row["date"] if dated else ""
            event = _Event(time, identifier(row, "video_id", where), row["tab"], values, date)
            users.setdefault(identifier(row, "user_id", where), []).append(event)
    for events in users.values():
        events.sort(key=lambda event: event.time_ms)
    return users


def _lists(user_id: str, events: list[_Event], gap_seconds: float) -> Iterator[Impression]:
    for tab in sorted({event.tab for event in events}):
        of_tab = [event for event in events if event.tab == tab]
        times = [event.time_ms / 1000 for event in of_tab]
        for start, stop in cut_sessions(times, gap_seconds, MAX_LIST_LENGTH):
            shown: dict[str, _Event] = {}
            for event in of_tab[start:stop]:
                shown.setdefault(event.item_id, event)
            if len(shown) < SHORTEST_LIST:
                continue
            time_ms = of_tab[start].time_ms
            yield Impression(
                request_id=f"{user_id}-{tab}-{time_ms}-{start}",
                user_id=user_id,
                time=time_ms // 1000,
                candidates=tuple(
                    Candidate(item_id, float(-position), _feedback(event.values), position=position)
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
