"""From a list folder to batches of encoded tensors.

TFRecords of ExampleListWithContext --parse_lists--> raw tensors (strings, floats with NaN)
  --FeatureEncoder--> encoded tensors (int32 ids, standardized float32, masks)
"""

from __future__ import annotations

import functools
import math
import os

import tensorflow as tf

from psad_tf.config import DataConfig
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import load_manifest, read_serialized
from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.features import SHOWN_POSITION

_PARSE_BATCH = 256
_BATCHES_AHEAD = 2
_CORES = os.cpu_count() or 1
_FILES_AT_ONCE = 8  # when training; fixed, since the order of the lists follows from it


def decoded_lists(
    lists_dir: str | os.PathLike[str],
    split: str,
    encoder: FeatureEncoder,
    list_size: int | None,
    files_at_once: int = 1,
) -> tf.data.Dataset:
    """One encoded list an element (N is `list_size`, or the list's own length).

    The order is that of `read_serialized`.
    """
    parse = functools.partial(parse_lists, declaration=encoder.declaration, list_size=list_size)
    dataset = read_serialized(lists_dir, split, files_at_once).batch(_PARSE_BATCH)
    dataset = dataset.map(
        lambda serialized: encoder(parse(serialized)), num_parallel_calls=_CORES, deterministic=True
    ).unbatch()
    return dataset if list_size is not None else dataset.map(_cut_padding)


def _options() -> tf.data.Options:
    """Without autotuning: its thread can hold up the end of an epoch for seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _cut_padding(encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Drops the candidates that only the longest list of the parsed batch needed."""
    return _cut_candidates(encoded, tf.reduce_sum(tf.cast(encoded["mask"], tf.int32)))


def _cut_candidates(encoded: dict[str, tf.Tensor], count: tf.Tensor | int) -> dict[str, tf.Tensor]:
    """Keeps the first `count` candidates of one list; only their axis is of unknown size."""
    return {
        key: value[:count] if value.shape.rank >= 1 and value.shape[0] is None else value
        for key, value in encoded.items()
    }


class ListDataset:
    """The lists of one split, ready to be batched.

    Args:
        lists_dir: A folder that `psad preprocess` wrote.
        split: `train`, `valid` or `test`.
        encoder: Of the same folder.
        config: Batch size, padded sizes, shuffle buffer, cache.

    Attributes:
        count: Lists in the split.
        list_bytes: Memory of a decoded list, at most.
        shuffle_buffer: Lists in the shuffle buffer.
        cached: Whether decoded lists are kept in memory.
    """

    def __init__(
        self, lists_dir: str | os.PathLike[str], split: str, encoder: FeatureEncoder, config: DataConfig
    ) -> None:
        self.config = config
        self.split = split
        sizes = config.list_sizes
        self.count = int(load_manifest(lists_dir)["lists"].get(split, 0))
        if not self.count:
            raise InputError(f"{os.fspath(lists_dir)}: the split {split!r} has no lists")
        lists = decoded_lists(
            lists_dir,
            split,
            encoder,
            sizes[0] if len(sizes) == 1 else None,
            _FILES_AT_ONCE if split == "train" else 1,
        )
        # Of several sizes a list keeps its own length until it is batched.
        longest = sizes[0] if len(sizes) == 1 else encoder.declaration.max_candidates
        self.list_bytes = sum(
            spec.dtype.size * math.prod(size or longest for size in spec.shape)
            for spec in lists.element_spec.values()
        )
        self.cached = config.cache and self.count * self.list_bytes <= config.cache_mib * 2**20
        self._lists = lists.cache() if self.cached else lists
        buffer = max(config.batch_size, config.shuffle_buffer_mib * 2**20 // self.list_bytes)
        self.shuffle_buffer = min(buffer, self.count)

    def training_batches(self, seed: int, epoch: int) -> tf.data.Dataset:
        """Shuffled whole batches of one epoch; the order is a function of `seed` and `epoch`."""
        lists = self._lists.shuffle(
            self.shuffle_buffer, seed=seed * 1_000_003 + epoch, reshuffle_each_iteration=False
        )
        batches = self._batched(lists, drop_remainder=True).prefetch(_BATCHES_AHEAD)
        options = _options()
        # Workers take their parts of every batch, not files of their own: the same batches for any number.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.with_options(options)

    def batches(self) -> tf.data.Dataset:
        """All lists in file order; a last batch may be smaller."""
        batches = self._batched(self._lists, drop_remainder=False).prefetch(_BATCHES_AHEAD)
        return batches.with_options(_options())

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the same for every order of the lists."""
        if len(self.config.list_sizes) == 1:
            return self.count // self.config.batch_size
        return sum(1 for _ in self._batched(self._lists, drop_remainder=True))

    def _batched(self, lists: tf.data.Dataset, drop_remainder: bool) -> tf.data.Dataset:
        sizes, batch_size = self.config.list_sizes, self.config.batch_size
        if len(sizes) == 1:
            return lists.batch(batch_size, drop_remainder=drop_remainder)
        lists = lists.map(lambda encoded: _cut_candidates(encoded, sizes[-1]))
        batches = lists.bucket_by_sequence_length(
            lambda encoded: tf.shape(encoded["mask"])[0],
            bucket_boundaries=[size + 1 for size in sizes[:-1]] + [sizes[-1] + 1],
            bucket_batch_sizes=[batch_size] * (len(sizes) + 1),
            pad_to_bucket_boundary=True,
            drop_remainder=drop_remainder,
        )
        return batches.map(_nothing_shown_at_padding)


def _nothing_shown_at_padding(encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Buckets are padded with zeros, and slot 0 would be a place in the list."""
    return {**encoded, SHOWN_POSITION: tf.where(encoded["mask"], encoded[SHOWN_POSITION], -1)}
