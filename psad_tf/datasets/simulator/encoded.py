"""From a simulated world straight to encoded batches: no JSON, no Beam, no files.

What comes out is what `psad simulate`, `psad preprocess` and the `FeatureEncoder` make of the same world
(a test holds the two together), in seconds for 10^6 lists. Lists lie in memory as item numbers, and become
encoded tensors a batch at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from psad_tf.config import DataConfig
from psad_tf.data.encoder import MAX_STANDARDIZED
from psad_tf.datasets.simulator.config import SimulatorConfig
from psad_tf.datasets.simulator.logs import LogBlock, blocks_of, log_block, split_of
from psad_tf.datasets.simulator.policies import POLICIES, Policy
from psad_tf.datasets.simulator.raw_folder import declaration
from psad_tf.datasets.simulator.world import World
from psad_tf.errors import InputError
from psad_tf.features import SPLITS

_BATCHES_AHEAD = 2
_CORES = os.cpu_count() or 1
_FIRST_ID = 2  # after padding and unknown


@dataclasses.dataclass(frozen=True)
class Lists:
    """The lists of one split as numbers of the world.

    Args:
        user: int32 [lists].
        items: int32 [lists, n], in the initial order.
        scores: float32 [lists, n].
        slots: int8 [lists, n], -1 where a candidate was not shown.
        clicks: bool [lists, n].
        past: int32 [lists, H], items clicked before, the most recent first, -1 past the end.
        ages: int32 [lists, H], seconds between the click and the request.
    """

    user: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    slots: np.ndarray
    clicks: np.ndarray
    past: np.ndarray
    ages: np.ndarray


class EncodedWorld:
    """A world's lists as a source of encoded batches.

    Args:
        config: The world and the number of lists.
        policy: Scores by which lists are shown; by default the one that `config.policy` names.
        progress: Show how many lists are made on stderr.

    Attributes:
        world: The world.
        declaration: Its features.
        vocabulary_sizes: Ids of each vocabulary, padding and unknown included.
        lists: {split: Lists}.

    Example:
        >>> source = EncodedWorld(SimulatorConfig(lists=60, candidates=4, items=30, shown=2))
        >>> batch = next(iter(source.dataset("train", DataConfig(batch_size=8)).batches()))
        >>> batch["item_id"].shape, int((batch["shown_position"] >= 0).numpy().sum())
        (TensorShape([8, 4, 1]), 16)
    """

    def __init__(self, config: SimulatorConfig, policy: Policy | None = None, progress: bool = False) -> None:
        self.world = world = World(config)
        self.declaration = declaration(config)
        parts: dict[str, list[Lists]] = {split: [] for split in SPLITS}
        segments, ages = [], []
        for number in range(blocks_of(config)):
            block = log_block(world, policy or POLICIES[config.policy], number)
            made = _lists(block, config.history_length)
            split = split_of(block.round_of, config.lists_per_user)
            for index, name in enumerate(SPLITS):
                parts[name].append(_rows(made, np.flatnonzero(split == index)))
            segments.append(block.users.segments)
            ages.append(block.users.ages)
            if progress and number % 10 == 9:
                print(f"\r  {(number + 1) / blocks_of(config):.0%} of the lists", end="", file=sys.stderr)
        if progress:
            print(file=sys.stderr)
        self.lists = {split: _joined(each) for split, each in parts.items()}
        self._segments, self._ages = np.concatenate(segments), np.concatenate(ages)
        self._popularity = world.popularity.round(5).astype(np.float32)
        self._count_vocabularies()
        self._measure_statistics()

    def dataset(self, split: str, config: DataConfig) -> EncodedLists:
        """The lists of a split, ready to be batched."""
        return EncodedLists(self, split, config)

    def ids_of_users(self, numbers: np.ndarray) -> np.ndarray:
        """The ids of users in the vocabulary, int32."""
        return self._tables["user_id"].numpy()[numbers]

    def encode(self, lists: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes a batch of lists; `lists` has the fields of `Lists` as tensors."""
        user, items, past = lists["user"], lists["items"], lists["past"]
        seen = past >= 0
        known = tf.maximum(past, 0)
        shown = tf.cast(lists["slots"], tf.int32)

        def of(name: str, numbers: tf.Tensor) -> tf.Tensor:
            return tf.gather(self._tables[name], numbers)

        log_ages = tf.math.log1p(tf.cast(lists["ages"], tf.float32))
        ages = tf.where(seen, self._standardized("history_age_seconds", log_ages), 0.0)
        return {
            "user_id": of("user_id", user)[:, tf.newaxis],
            "segment": of("segment", user)[:, tf.newaxis],
            "history_item_id": tf.where(seen, of("item_id", known), 0)[..., tf.newaxis],
            "history_category": tf.where(seen, of("category", known), 0)[..., tf.newaxis],
            "item_id": of("item_id", items)[..., tf.newaxis],
            "category": of("category", items)[..., tf.newaxis],
            "mask": tf.ones_like(items, tf.bool),
            "history_mask": seen,
            "context_dense": self._standardized("age", of("age", user))[:, tf.newaxis],
            "history_dense": ages[..., tf.newaxis],
            "candidate_dense": tf.stack(
                [
                    self._standardized("initial_score", lists["scores"]),
                    self._standardized("popularity", of("popularity", items)),
                ],
                -1,
            ),
            "initial_rank": tf.broadcast_to(tf.range(items.shape[1]), tf.shape(items)),
            "shown_position": shown,
            "labels": tf.cast(lists["clicks"], tf.float32),
            "negatives": tf.zeros_like(lists["scores"]),
        }

    def _standardized(self, name: str, values: tf.Tensor) -> tf.Tensor:
        mean, std = self._moments[name]
        return tf.clip_by_value((values - mean) / std, -MAX_STANDARDIZED, MAX_STANDARDIZED)

    def _count_vocabularies(self) -> None:
        """As `psad preprocess`: the values of training lists, the most frequent first, then by value."""
        config, train = self.world.config, self.lists["train"]
        candidates = np.bincount(train.items.ravel(), minlength=config.items)
        past = np.bincount(train.past.ravel() + 1, minlength=config.items + 1)[1:]
        user = np.bincount(train.user, minlength=len(self._ages))
        of_items, categories = candidates + past, self.world.categories
        of_categories = np.bincount(categories, weights=of_items, minlength=config.categories).astype(int)
        of_segments = np.bincount(
            self._segments, weights=user[: len(self._segments)], minlength=config.user_types
        ).astype(int)
        ids, sizes = {}, {}
        for name, prefix, counts in (
            ("item_id", "i", of_items),
            ("category", "c", of_categories),
            ("user_id", "u", user),
            ("segment", "s", of_segments),
        ):
            ids[name], sizes[name] = _vocabulary_ids(prefix, counts)
        self.vocabulary_sizes = sizes
        self._tables = {
            "item_id": tf.constant(ids["item_id"]),
            "category": tf.constant(ids["category"][categories]),
            "user_id": tf.constant(ids["user_id"]),
            "segment": tf.constant(ids["segment"][self._segments]),
            "age": tf.constant(self._ages.astype(np.float32)),
            "popularity": tf.constant(self._popularity),
        }

    def _measure_statistics(self) -> None:
        train = self.lists["train"]
        appearances = np.bincount(train.items.ravel(), minlength=len(self._popularity))
        requests = np.bincount(train.user, minlength=len(self._ages))
        seen = np.log1p(train.ages[train.past >= 0].astype(np.float64)).astype(np.float32)
        self._moments = {
            "age": _moments(self._ages, requests),
            "history_age_seconds": _moments(seen),
            "initial_score": _moments(train.scores.ravel()),
            "popularity": _moments(self._popularity, appearances),
        }


class EncodedLists:
    """The lists of one split of an `EncodedWorld`, with the interface of `ListDataset`.

    Attributes:
        count: Lists in the split.
        split: Its name.
        config: Batch size; lists are never padded.
        steps_per_epoch: Whole batches in an epoch.
    """

    def __init__(self, source: EncodedWorld, split: str, config: DataConfig) -> None:
        self.source, self.split, self.config = source, split, config
        self._rows = np.arange(len(source.lists[split].user))
        if config.users != "all":
            ids = source.ids_of_users(source.lists[split].user)
            self._rows = self._rows[ids % 2 == (0 if config.users == "even" else 1)]
        self.count = len(self._rows)
        if not self.count:
            raise InputError(f"the split {split!r} has no lists")
        self.steps_per_epoch = self.count // config.batch_size

    def training_batches(self, seed: int, epoch: int) -> tf.data.Dataset:
        """Shuffled whole batches of one epoch; the order is a function of `seed` and `epoch`."""
        order = np.random.default_rng([seed, epoch]).permutation(self._rows)
        return self._batched(order, drop_remainder=True)

    def batches(self) -> tf.data.Dataset:
        """All lists in order; a last batch may be smaller."""
        return self._batched(self._rows, drop_remainder=False)

    def _batched(self, order: np.ndarray, drop_remainder: bool) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices(order).batch(self.config.batch_size, drop_remainder)
        encoded = rows.map(self._encoded, num_parallel_calls=_CORES, deterministic=True)
        return encoded.prefetch(_BATCHES_AHEAD)

    def _encoded(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.source.encode({name: tf.gather(all_, rows) for name, all_ in self._columns.items()})

    @functools.cached_property
    def _columns(self) -> dict[str, tf.Tensor]:
        with tf.init_scope():
            return {name: tf.constant(value) for name, value in vars(self.source.lists[self.split]).items()}


def _lists(block: LogBlock, history_length: int) -> Lists:
    past, ages = _histories(block, history_length)
    return Lists(
        user=block.user.astype(np.int32),
        items=block.items.astype(np.int32),
        scores=block.scores.astype(np.float32),
        slots=block.slots.astype(np.int8),
        clicks=block.clicks,
        past=past.astype(np.int32),
        ages=ages.astype(np.int32),
    )


def _histories(block: LogBlock, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The items of each list's last clicks, all in earlier seconds, the most recent first, and their ages."""
    # Clicks of one second stand by item id, as text, as in the Beam job.
    names = np.char.add("i", block.event_item.astype(str)).astype(bytes)
    order = np.lexsort((names, block.event_time, block.event_user))
    user, item, time = (each[order] for each in (block.event_user, block.event_item, block.event_time))
    span = int(max(time.max(initial=0), block.times.max(initial=0))) + 1
    ends = np.searchsorted(user * span + time, block.user * span + block.times)  # the first not earlier
    starts = np.searchsorted(user, block.user)
    places = ends[:, np.newaxis] - 1 - np.arange(length)
    seen = places >= starts[:, np.newaxis]
    places = np.where(seen, places, 0)
    if not len(item):
        return np.full(places.shape, -1), np.zeros(places.shape)
    past = np.where(seen, item[places], -1)
    return past, np.where(seen, block.times[:, np.newaxis] - time[places], 0)


def _rows(lists: Lists, rows: np.ndarray) -> Lists:
    return Lists(**{name: value[rows] for name, value in vars(lists).items()})


def _joined(parts: list[Lists]) -> Lists:
    names = [field.name for field in dataclasses.fields(Lists)]
    return Lists(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _vocabulary_ids(prefix: str, counts: np.ndarray) -> tuple[np.ndarray, int]:
    """The id of each number, int32, and the vocabulary's size."""
    values = np.char.add(prefix, np.arange(len(counts)).astype(str)).astype(bytes)
    order = np.lexsort((values, -counts))
    order = order[counts[order] > 0]
    ids = np.ones(len(counts), np.int32)  # unknown
    ids[order] = _FIRST_ID + np.arange(len(order), dtype=np.int32)
    return ids, _FIRST_ID + len(order)


def _moments(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and standard deviation; 1 where all values are equal, as in `statistics.json`."""
    if not len(values):
        return 0.0, 1.0
    exact = values.astype(np.float64)
    mean = float(np.average(exact, weights=weights))
    return mean, float(np.sqrt(np.average((exact - mean) ** 2, weights=weights))) or 1.0
