"""How long the lists of a split are, and to which sizes they are padded."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_ranking as tfr

from psad_tf.config import DataConfig
from psad_tf.data.list_folder import explain, read_serialized
from psad_tf.errors import InputError
from psad_tf.features import ITEM_ID, RELEVANCE

MAX_SIZES = 4
# Every size is compiled for once, so another one must spare at least this share of the padded candidates.
_WORTH_A_SIZE = 0.15
_SCAN_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class SplitLists:
    """What the lists of a split are like.

    Attributes:
        lengths: Number of lists by number of candidates.
        with_positive: Lists that have a label of 1 or more.
    """

    lengths: Mapping[int, int]
    with_positive: int

    @property
    def count(self) -> int:
        """Number of lists."""
        return sum(self.lengths.values())

    @property
    def max_length(self) -> int:
        """Candidates of the longest list."""
        return max(self.lengths)


def scan_lists(lists_dir: str | os.PathLike[str], split: str) -> SplitLists:
    """Reads every list of a split for its length and labels; a damaged record is found here too.

    Raises:
        InputError: The split has no lists, or a record cannot be read.
    """

    # Nothing in it branches on tensors, and AutoGraph takes a second to find that out.
    @tf.autograph.experimental.do_not_convert
    def facts(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tfr.data.parse_from_example_list(
            serialized,
            example_feature_spec={
                ITEM_ID: tf.io.FixedLenFeature([1], tf.string, [""]),
                RELEVANCE: tf.io.FixedLenFeature([], tf.float32, -1.0),
            },
        )
        present = tf.cast(tf.not_equal(parsed[ITEM_ID][..., 0], ""), tf.int32)
        return tf.reduce_sum(present, -1), tf.reduce_any(parsed[RELEVANCE] >= 1.0, -1)

    lengths: collections.Counter[int] = collections.Counter()
    with_positive = 0
    batches = read_serialized(lists_dir, split).batch(_SCAN_BATCH)
    try:
        for counts, positive in batches.map(facts, num_parallel_calls=os.cpu_count()).prefetch(1):
            lengths.update(counts.numpy().tolist())
            with_positive += int(np.sum(positive))
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(
            f"{os.path.join(os.fspath(lists_dir), split)}: a record cannot be read: {explain(error)}"
        ) from None
    if not lengths:
        raise InputError(f"{os.fspath(lists_dir)}: the split {split!r} has no lists")
    return SplitLists(dict(sorted(lengths.items())), with_positive)


def choose_sizes(
    lengths: Mapping[int, int], min_size: int = 1, max_sizes: int = MAX_SIZES
) -> tuple[int, ...]:
    """Sizes that leave little padding: few, since each costs a compilation.

    Of all ways to take s of the lengths that occur as sizes, the largest among them, the one with the fewest
    padded candidates in all is taken; and s is the smallest whose successor would spare less than 15 %.

    Args:
        lengths: Number of lists by number of candidates.
        min_size: No size is smaller.
        max_sizes: At most so many.

    Returns:
        Ascending sizes; the last holds the longest list.

    >>> choose_sizes({10: 500, 50: 500})
    (10, 50)
    >>> choose_sizes({19: 3, 20: 900})
    (20,)
    """
    merged: collections.Counter[int] = collections.Counter()
    for length, count in lengths.items():
        merged[max(length, min_size)] += count
    ends = sorted(merged)
    up_to = np.concatenate([[0], np.cumsum([merged[end] for end in ends])])
    size = np.array(ends)
    # best[i]: padded candidates of all lists no longer than ends[i - 1], with the sizes in chosen[i].
    best: list[float] = [0.0, *(float(size[i] * up_to[i + 1]) for i in range(len(ends)))]
    chosen: list[tuple[int, ...]] = [(), *((end,) for end in ends)]
    for _ in range(min(max_sizes, len(ends)) - 1):
        costs = [
            [best[j] + float(size[i] * (up_to[i + 1] - up_to[j])) for j in range(i + 1)]
            for i in range(len(ends))
        ]
        at = [int(np.argmin(each)) for each in costs]
        fewer = [0.0, *(costs[i][j] for i, j in enumerate(at))]
        if fewer[-1] > best[-1] * (1.0 - _WORTH_A_SIZE):
            break
        chosen = [(), *((*chosen[j], ends[i]) for i, j in enumerate(at))]
        best = fewer
    return chosen[-1]


def training_sizes(lists: SplitLists, config: DataConfig, slots: int) -> tuple[int, ...]:
    """The sizes that training lists are padded to.

    Args:
        lists: The split's.
        config: With `list_sizes`, or without any for sizes chosen from the data.
        slots: The teacher's slots; no chosen size is smaller.

    Raises:
        InputError: A list is longer than the largest size and `long_lists` does not ask for cutting.
    """
    if not config.list_sizes:
        return choose_sizes(lists.lengths, slots)
    max_size = config.list_sizes[-1]
    longer = sum(count for length, count in lists.lengths.items() if length > max_size)
    if longer and config.long_lists == "error":
        raise InputError(
            f"data.list_sizes: {longer:,} of {lists.count:,} training lists have more than {max_size} "
            f"candidates, up to {lists.max_length}: add a size, leave list_sizes out, or set data.long_lists "
            'to "truncate" to train on the first candidates of each'
        )
    return config.list_sizes


def evaluation_sizes(lists: SplitLists, config: DataConfig) -> tuple[int, ...]:
    """The sizes that lists are padded to for metrics, which count the whole list: none is ever cut."""
    sizes = config.list_sizes
    if not sizes:
        return choose_sizes(lists.lengths)
    return sizes if lists.max_length <= sizes[-1] else (*sizes, lists.max_length)


def batches_of_sizes(lengths: Mapping[int, int], sizes: Sequence[int], batch_size: int) -> int:
    """Number of batches: the lists of every size fill their own, and the last of a size is filled up.

    >>> batches_of_sizes({10: 65, 20: 1}, (10, 20), 64)
    3
    """
    counts: collections.Counter[int] = collections.Counter()
    for length, count in lengths.items():
        counts[next((size for size in sizes if length <= size), sizes[-1])] += count
    return sum(-(-count // batch_size) for count in counts.values())
