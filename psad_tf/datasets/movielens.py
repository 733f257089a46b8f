"""MovieLens-100K: reads the three files that ship in the `recbole` wheel, and makes the raw record of them.

Source: Harper and Konstan, "The MovieLens Datasets: History and Context" (TiiS 2015): 100,000 ratings of
1,682 movies by 943 users who rated at least 20. It has no logged lists: `windows.py` cuts the lists and
`psad_tf/datasets/retrieval.py` orders them.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from psad_tf.data.records import Candidate, Impression, Interaction, Value
from psad_tf.datasets.rating_statistics import (
    ItemFacts,
    ListFeatures,
    RatedList,
    RatingEvent,
    as_of_features,
)
from psad_tf.datasets.raw_data import RawData
from psad_tf.datasets.retrieval import Ratings, RetrievalConfig, RetrievalModel, train_retrieval
from psad_tf.datasets.tables import read_tab_separated
from psad_tf.datasets.windows import UserWindows, Window, WindowRules, cut_windows
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

GENRES_WIDTH = 6
_YEAR = re.compile(r"[0-9]{4}")
USER_ATTRIBUTES = ("age_bucket", "gender", "occupation")
ITEM_ATTRIBUTES = ("decade", "genres")

DECLARATION = FeatureDeclaration(
    context_categorical=(
        CategoricalFeature("user_id"),
        CategoricalFeature("gender"),
        CategoricalFeature("occupation"),
        CategoricalFeature("age_bucket"),
    ),
    context_dense=(
        DenseFeature("age"),
        DenseFeature("user_rating_count", "log1p_standardize"),
        DenseFeature("user_mean_rating"),
        DenseFeature("user_rating_deviation"),
        DenseFeature("user_days_active", "log1p_standardize"),
    ),
    history=HistoryDeclaration(
        length=50,
        categorical=(CategoricalFeature("item_id"), CategoricalFeature("genres", width=GENRES_WIDTH)),
        dense=(DenseFeature("rating"), DenseFeature("age_seconds", "log1p_standardize")),
    ),
    candidate_categorical=(
        CategoricalFeature("item_id"),
        CategoricalFeature("genres", width=GENRES_WIDTH),
        CategoricalFeature("decade"),
    ),
    candidate_dense=(
        DenseFeature("rating_score"),
        DenseFeature("retrieval_score"),
        DenseFeature("item_rating_count", "log1p_standardize"),
        DenseFeature("item_mean_rating"),
        DenseFeature("item_liked_share"),
        DenseFeature("genre_affinity"),
        DenseFeature("genre_count", "log1p_standardize"),
        DenseFeature("neighbour_affinity"),
        DenseFeature("item_age_years"),
    ),
    label=LabelDeclaration(
        grades=(LabelRule("rating", 4.0, 1), LabelRule("rating", 5.0, 2)),
        negatives=(NegativeRule("rating", 2.0),),
    ),
)


@dataclasses.dataclass(frozen=True)
class MovieLens:
    """The data set in memory.

    Args:
        ratings: User id -> interactions in time order; those of one second keep the file's order.
        users: User id -> `age`, `age_bucket`, `gender`, `occupation`.
        items: Item id -> `title`, `genres` and, where known, `release_year`, `decade`.
    """

    ratings: Mapping[str, Sequence[RatingEvent]]
    users: Mapping[str, Mapping[str, Value]]
    items: Mapping[str, Mapping[str, Value]]

    def facts(self) -> dict[str, ItemFacts]:
        """What the statistics need to know of each item."""
        facts = {}
        for item_id, values in self.items.items():
            genres, year = values["genres"], values.get("release_year")
            known_year = year if isinstance(year, int) else None
            facts[item_id] = ItemFacts(tuple(genres) if isinstance(genres, list) else (), known_year)
        return facts


def read_movielens(folder: str | os.PathLike[str]) -> MovieLens:
    """Reads `ml-100k.inter`, `ml-100k.user` and `ml-100k.item`.

    Raises:
        InputError: A file is missing, or a line is not of the published form; names file and line.
    """
    root = pathlib.Path(folder)
    ratings: dict[str, list[RatingEvent]] = {}
    for where, (user_id, item_id, rating, time) in _rows(root / "ml-100k.inter", 4):
        event = RatingEvent(user_id, item_id, round(_number(time, where)), _number(rating, where))
        ratings.setdefault(user_id, []).append(event)
    for events in ratings.values():
        events.sort(key=lambda event: event.time)  # stable: ties keep the file's order
    users: dict[str, dict[str, Value]] = {}
    for where, (user_id, age, gender, occupation, _) in _rows(root / "ml-100k.user", 5):
        years = _number(age, where)
        bucket = f"{int(years) // 10 * 10}s"
        users[user_id] = {"age": years, "age_bucket": bucket, "gender": gender, "occupation": occupation}
    items: dict[str, dict[str, Value]] = {}
    for _, (item_id, title, year, genres) in _rows(root / "ml-100k.item", 4):
        items[item_id] = {"title": title, "genres": genres.split()}
        if _YEAR.fullmatch(year):  # two movies have other text there
            release_year = int(year)
            items[item_id] |= {"release_year": release_year, "decade": f"{release_year // 10 * 10}s"}
    for user_id, events in ratings.items():
        if user_id not in users:
            raise InputError(f"user {user_id!r} has ratings but is not in {root / 'ml-100k.user'}")
        for event in events:
            if event.item_id not in items:
                raise InputError(f"item {event.item_id!r} is rated but is not in {root / 'ml-100k.item'}")
    return MovieLens(ratings, users, items)


def train_upstream(data: MovieLens, rules: WindowRules, config: RetrievalConfig) -> RetrievalModel:
    """Trains the upstream stage on the first part of each user's ratings, and on nothing else."""
    events = [
        event
        for user_events in data.ratings.values()
        for event in user_events[: cut_windows(len(user_events), rules).upstream]
    ]
    columns = Ratings(
        user_ids=[event.user_id for event in events],
        item_ids=[event.item_id for event in events],
        ratings=[event.rating for event in events],
    )
    return train_retrieval(columns, data.users, data.items, USER_ATTRIBUTES, ITEM_ATTRIBUTES, config)


def build_raw_data(
    data: MovieLens, rules: WindowRules | None = None, config: RetrievalConfig | None = None
) -> RawData:
    """Makes the raw record: lists in the order of the upstream stage's predicted rating.

    The interactions hold all ratings; a history as of a list's time takes only those strictly before the
    list's first moment, and so does every feature computed here. Item features come from each user's
    ratings before that user's first held-out window.

    Args:
        data: The data set.
        rules: How lists are cut; by default the protocol without overlapping windows.
        config: How the upstream stage is trained.
    """
    rules = rules or WindowRules()
    upstream = train_upstream(data, rules, config or RetrievalConfig())
    cuts = {user_id: cut_windows(len(events), rules) for user_id, events in data.ratings.items()}
    return RawData(
        declaration=DECLARATION,
        impressions=_impressions(data, cuts, upstream),
        interactions=(
            Interaction(event.user_id, event.item_id, event.time, {"rating": event.rating})
            for events in data.ratings.values()
            for event in events
        ),
        users=({"user_id": user_id, **values} for user_id, values in data.users.items()),
        items=({"item_id": item_id, **values} for item_id, values in data.items.items()),
    )


def _impressions(
    data: MovieLens, cuts: Mapping[str, UserWindows], upstream: RetrievalModel
) -> Iterator[Impression]:
    windows = [(user_id, window) for user_id, cut in cuts.items() for window in cut.windows]
    rated = [data.ratings[user_id][window.start : window.stop] for user_id, window in windows]
    lists = [
        RatedList(events[0].user_id, events[0].time, tuple(event.item_id for event in events))
        for events in rated
    ]
    all_events = [
        (event, position < cuts[user_id].held_out)
        for user_id, events in data.ratings.items()
        for position, event in enumerate(events)
    ]
    features = as_of_features(lists, all_events, data.facts())
    scores = upstream.score(
        [event.user_id for events in rated for event in events],
        [event.item_id for events in rated for event in events],
    )
    done = 0
    for (_, window), events, values in zip(windows, rated, features, strict=True):
        part = slice(done, done + len(events))
        done += len(events)
        yield _impression(window, events, values, scores.rating[part], scores.retrieval[part])


def _impression(
    window: Window,
    events: Sequence[RatingEvent],
    features: ListFeatures,
    rating_scores: np.ndarray,
    retrieval_scores: np.ndarray,
) -> Impression:
    suffix = "-overlapping" if window.overlapping else ""
    user_id = events[0].user_id
    candidates = tuple(
        Candidate(
            item_id=events[index].item_id,
            initial_score=float(rating_scores[index]),
            feedback={"rating": events[index].rating},
            features={
                "rating_score": float(rating_scores[index]),
                "retrieval_score": float(retrieval_scores[index]),
                **_rounded(features.candidates[index]),
            },
        )
        for index in np.argsort(-rating_scores, kind="stable")
    )
    return Impression(
        request_id=f"ml-{user_id}-{window.start}-{window.stop}{suffix}",
        user_id=user_id,
        time=events[0].time,
        candidates=candidates,
        context=dict(_rounded(features.context)),
        split=window.split,
    )


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _rows(path: pathlib.Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    return read_tab_separated(path, columns, header=True, hint="psad fetch-data downloads it")


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is not a number") from None
