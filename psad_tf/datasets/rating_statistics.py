"""Features that a feature store would give for a list of movies, each as of the list's time.

`RatingReplay` goes through the ratings in time order. What a list gets is computed from the ratings of
strictly earlier seconds: of everybody for the item's features (only ratings marked `shared`, which leave
out held-out windows), of the user alone for the user's.

With n, s the number and sum of an item's shared ratings, m the mean of all shared ratings so far, r the
user's past ratings, and P the priors below:

    item_rating_count    n
    item_mean_rating     (s + P_item m) / (n + P_item)
    item_liked_share     the same of the indicator rating >= 4
    item_age_years       year of the list's time - release year
    user_rating_count, user_mean_rating, user_rating_deviation    of r
    user_days_active     days since the user's first rating
    genre_affinity       mean over the item's genres g of  sum_{r in g} (r - mean r) / (n_g + P_genre)
    genre_count          mean over the item's genres of n_g, the user's past ratings in that genre
    neighbour_affinity   sum_j S_ij e_j / (sum_j |S_ij| + P_neighbour) over the user's past items j

with the residual e = rating - item_mean_rating - the user's mean residual so far (shrunk by P_item), all
as of that rating, and S_ij = sum_users e_i e_j / sqrt((sum e_i^2 + P_similarity)(sum e_j^2 + P_similarity)).
Source of the last: Koren, "Factor in the neighbors" (TKDD 2010), its similarity shrunk.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_ITEM_PRIOR = 5.0
_GENRE_PRIOR = 3.0
_SIMILARITY_PRIOR = 10.0
_NEIGHBOUR_PRIOR = 1.0
_FIRST_MEAN = 3.5
_FIRST_LIKED = 0.5
_LIKED_AT_LEAST = 4.0
_SECONDS_A_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class RatingEvent:
    """One rating."""

    user_id: str
    item_id: str
    time: int
    rating: float


@dataclasses.dataclass(frozen=True)
class ItemFacts:
    """What is known of an item beforehand: its genres and, where known, its release year."""

    genres: tuple[str, ...] = ()
    release_year: int | None = None


@dataclasses.dataclass(frozen=True)
class RatedList:
    """A list that features are wanted for.

    Args:
        user_id: The user.
        time: Seconds; only earlier ratings count.
        item_ids: The candidates.
    """

    user_id: str
    time: int
    item_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ListFeatures:
    """Features of one list; a missing one is absent.

    Args:
        context: The user's.
        candidates: The candidates', in the list's order.
    """

    context: dict[str, float]
    candidates: list[dict[str, float]]


class _User:
    """A user's past ratings."""

    def __init__(self, genres: int) -> None:
        self.items: list[int] = []
        self.residuals: list[float] = []
        self.ratings: list[float] = []
        self.residual_sum = 0.0
        self.first_time = 0
        self.genre_sum = np.zeros(genres)
        self.genre_count = np.zeros(genres)
        self.shared: list[int] = []  # positions in `items` of the shared ones


class RatingReplay:
    """The state of everybody's ratings up to a moment.

    Args:
        items: Item id -> what is known of it beforehand.
    """

    def __init__(self, items: Mapping[str, ItemFacts]) -> None:
        self._facts = items
        self._item = {item_id: index for index, item_id in enumerate(items)}
        names = sorted({genre for facts in items.values() for genre in facts.genres})
        index_of = {name: index for index, name in enumerate(names)}
        self._genres = [
            np.array([index_of[genre] for genre in facts.genres], np.int64) for facts in items.values()
        ]
        self._genre_names = names
        size = len(items)
        self._count, self._sum, self._liked = np.zeros(size), np.zeros(size), np.zeros(size)
        self._squares = np.zeros(size)
        self._products = np.zeros((size, size), np.float32)
        self._users: dict[str, _User] = {}
        self._total_count = self._total_sum = self._total_liked = 0.0

    def add(self, event: RatingEvent, shared: bool) -> None:
        """Takes in a rating; `shared` ones also count for the items' features."""
        item = self._item[event.item_id]
        user = self._users.setdefault(event.user_id, _User(len(self._genre_names)))
        if not user.items:
            user.first_time = event.time
        residual = event.rating - float(self._item_mean(np.array([item]))[0])
        offset = user.residual_sum / (len(user.items) + _ITEM_PRIOR)
        user.residual_sum += residual
        residual -= offset
        if shared:
            self._share(event, item, user, residual)
        user.items.append(item)
        user.residuals.append(residual)
        user.ratings.append(event.rating)
        user.genre_sum[self._genres[item]] += event.rating
        user.genre_count[self._genres[item]] += 1

    def features(self, wanted: RatedList) -> ListFeatures:
        """The features of a list as of the ratings taken in so far; every item must be known."""
        items = np.array([self._item[item_id] for item_id in wanted.item_ids], np.int64)
        user = self._users.get(wanted.user_id) or _User(len(self._genre_names))
        columns = {
            "item_rating_count": self._count[items],
            "item_mean_rating": self._item_mean(items),
            "item_liked_share": self._item_liked(items),
            "neighbour_affinity": self._neighbour_affinity(items, user),
        }
        mean = float(np.mean(user.ratings)) if user.ratings else 0.0
        by_genre = (user.genre_sum - user.genre_count * mean) / (user.genre_count + _GENRE_PRIOR)
        year = datetime.datetime.fromtimestamp(wanted.time, datetime.UTC).year
        candidates = []
        for position, item in enumerate(items):
            values = {name: float(column[position]) for name, column in columns.items()}
            genres = self._genres[item]
            if len(genres):
                values["genre_affinity"] = float(by_genre[genres].mean())
                values["genre_count"] = float(user.genre_count[genres].mean())
            release_year = self._facts[wanted.item_ids[position]].release_year
            if release_year is not None:
                values["item_age_years"] = float(year - release_year)
            candidates.append(values)
        context = {"user_rating_count": float(len(user.ratings))}
        if user.ratings:
            context["user_mean_rating"] = mean
            context["user_rating_deviation"] = float(np.std(user.ratings))
            context["user_days_active"] = (wanted.time - user.first_time) / _SECONDS_A_DAY
        return ListFeatures(context, candidates)

    def _share(self, event: RatingEvent, item: int, user: _User, residual: float) -> None:
        liked = float(event.rating >= _LIKED_AT_LEAST)
        if user.shared:
            others = np.array([user.items[position] for position in user.shared])
            products = residual * np.array([user.residuals[position] for position in user.shared])
            self._products[item, others] += products
            self._products[others, item] += products
        user.shared.append(len(user.items))
        self._count[item] += 1
        self._sum[item] += event.rating
        self._liked[item] += liked
        self._squares[item] += residual**2
        self._total_count += 1
        self._total_sum += event.rating
        self._total_liked += liked

    def _item_mean(self, items: np.ndarray) -> np.ndarray:
        mean = self._total_sum / self._total_count if self._total_count else _FIRST_MEAN
        return (self._sum[items] + _ITEM_PRIOR * mean) / (self._count[items] + _ITEM_PRIOR)

    def _item_liked(self, items: np.ndarray) -> np.ndarray:
        share = self._total_liked / self._total_count if self._total_count else _FIRST_LIKED
        return (self._liked[items] + _ITEM_PRIOR * share) / (self._count[items] + _ITEM_PRIOR)

    def _neighbour_affinity(self, items: np.ndarray, user: _User) -> np.ndarray:
        past = np.array(user.items, np.int64)
        norms = np.sqrt(self._squares + _SIMILARITY_PRIOR)
        similarity = self._products[np.ix_(items, past)] / np.outer(norms[items], norms[past])
        weighted = similarity @ np.array(user.residuals)
        return weighted / (np.abs(similarity).sum(axis=1) + _NEIGHBOUR_PRIOR)


def as_of_features(
    lists: Sequence[RatedList],
    events: Iterable[tuple[RatingEvent, bool]],
    items: Mapping[str, ItemFacts],
) -> list[ListFeatures]:
    """Features of every list from the events of strictly earlier seconds.

    Args:
        lists: The lists, in any order.
        events: Every rating with whether it is shared, in any order; those of one second are taken in
            the order given.
        items: Item id -> what is known of it beforehand; holds every item of `lists` and `events`.

    Returns:
        One `ListFeatures` a list, in the order of `lists`.
    """
    replay = RatingReplay(items)
    pending = iter(sorted(events, key=lambda each: each[0].time))
    upcoming = next(pending, None)
    answers: dict[int, ListFeatures] = {}
    for index in sorted(range(len(lists)), key=lambda each: lists[each].time):
        while upcoming is not None and upcoming[0].time < lists[index].time:
            replay.add(*upcoming)
            upcoming = next(pending, None)
        answers[index] = replay.features(lists[index])
    return [answers[index] for index in range(len(lists))]
