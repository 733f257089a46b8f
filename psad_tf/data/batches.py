"""From a list folder to batches of encoded tensors.

TFRecords of ExampleListWithContext --parse_lists--> raw tensors (strings, floats with NaN)
  --FeatureEncoder--> encoded tensors (int32 ids, standardized float32, masks)
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Sequence

import tensorflow as tf

from psad_tf.config import DataConfig
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import read_serialized
from psad_tf.data.list_sizes import (
    SplitLists,
    batches_of_sizes,
    evaluation_sizes,
    scan_lists,
    training_sizes,
)
from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.features import SHOWN_POSITION, USER_ID

_DEFAULTS = DataConfig()
_PARSE_BATCH = 256
_BATCHES_AHEAD = 2
_CORES = os.cpu_count() or 1
_FILES_AT_ONCE = 8  # when training; fixed, since the order of the lists follows from it
# Nothing here branches on tensors, and AutoGraph takes seconds to find that out.
_as_it_is = tf.autograph.experimental.do_not_convert
# What padding holds where it is not 0.
_PADDING = {SHOWN_POSITION: -1}


def decoded_lists(
    lists_dir: str | os.PathLike[str],
    split: str,
    encoder: FeatureEncoder,
    list_size: int | None,
    files_at_once: int = 1,
) -> tf.data.Dataset:
    """One encoded list an element (N is `list_size`, or the list's own length).

    The order is that of `read_serialized`. Features of no columns (a declaration without dense features of
    some part has them) are left out: TensorFlow 2.15.1 crashes in `unbatch` of tensors without elements.
    `with_empty_features` puts them back.
    """
    parse = functools.partial(parse_lists, declaration=encoder.declaration, list_size=list_size)

    @_as_it_is
    def encode(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded = encoder(parse(serialized))
        return {key: value for key, value in encoded.items() if 0 not in value.shape[1:]}

    dataset = read_serialized(lists_dir, split, files_at_once).batch(_PARSE_BATCH)
    dataset = dataset.map(encode, num_parallel_calls=_CORES, deterministic=True).unbatch()
    return dataset if list_size is not None else dataset.map(_cut_padding)


@_as_it_is
def with_empty_features(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Puts the dense features of no columns back into an encoded batch."""
    for key, of in (("context_dense", None), ("history_dense", "history_mask"), ("candidate_dense", "mask")):
        if key not in batch:
            shape = tf.shape(batch["mask"])[:1] if of is None else tf.shape(batch[of])
            batch[key] = tf.ensure_shape(
                tf.zeros(tf.concat([shape, [0]], 0)),
                [*(batch["mask"].shape[:1] if of is None else batch[of].shape), 0],
            )
    return batch


def filled_batch(batch: dict[str, tf.Tensor], batch_size: int) -> dict[str, tf.Tensor]:
    """Fills a smaller batch with empty lists (all padding), so that one compiled shape serves all.

    An empty list is in no mean, neither of a loss nor of a metric.
    """
    missing = batch_size - tf.shape(batch["mask"])[0]
    return {
        key: tf.ensure_shape(
            tf.pad(
                value,
                [[0, missing]] + [[0, 0]] * (value.shape.rank - 1),
                constant_values=tf.cast(_PADDING.get(key, 0), value.dtype),
            ),
            [batch_size, *value.shape[1:]],
        )
        for key, value in batch.items()
    }


def _options() -> tf.data.Options:
    """Without autotuning: its thread can hold up the end of an epoch for seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


@_as_it_is
def _cut_padding(encoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Drops the candidates that only the longest list of the parsed batch needed."""
    return _cut_candidates(encoded, tf.reduce_sum(tf.cast(encoded["mask"], tf.int32)))


def _cut_candidates(encoded: dict[str, tf.Tensor], count: tf.Tensor | int) -> dict[str, tf.Tensor]:
    """Keeps the first `count` candidates of one list; only their axis is of unknown size."""
    return {
        key: value[:count] if value.shape.rank >= 1 and value.shape[0] is None else value
        for key, value in encoded.items()
    }


def _is_of_users(encoded: dict[str, tf.Tensor], users: str) -> tf.Tensor:
    if USER_ID not in encoded:
        raise InputError(f"data.users: {users!r} needs {USER_ID!r} among the context features")
    return encoded[USER_ID][0] % 2 == (0 if users == "even" else 1)


def _counted(lists: tf.data.Dataset) -> SplitLists:
    """The lengths of decoded lists."""
    lengths: Counter[int] = Counter()
    with_positive = 0
    for encoded in lists:
        lengths[int(tf.reduce_sum(tf.cast(encoded["mask"], tf.int32)))] += 1
        with_positive += int(tf.reduce_any(encoded["labels"] >= 1.0))
    return SplitLists(dict(sorted(lengths.items())), with_positive)


class ListDataset:
    """The lists of one split, ready to be batched.

    Args:
        lists_dir: A folder that `psad preprocess` wrote.
        split: `train`, `valid` or `test`.
        encoder: Of the same folder.
        config: Batch size, padded sizes, shuffle buffer, cache.
        training_slots: The teacher's slots, for lists to train on: `training_sizes` then chooses their
            sizes, and cuts them where `config.long_lists` asks for it. None is for evaluation, which never
            cuts a list (`evaluation_sizes`).

    Attributes:
        lists: How long the split's lists are.
        count: Lists in the split.
        sizes: Padded sizes.
        list_bytes: Memory of a decoded list, at most.
        shuffle_buffer: Lists in the shuffle buffer.
        cached: Whether decoded lists are kept in memory.

    Raises:
        InputError: The split has no lists, one cannot be read, or the sizes do not fit.
    """

    def __init__(
        self,
        lists_dir: str | os.PathLike[str],
        split: str,
        encoder: FeatureEncoder,
        config: DataConfig = _DEFAULTS,
        training_slots: int | None = None,
    ) -> None:
        self.config = config
        self.lists_dir = os.fspath(lists_dir)
        self.split = split
        self.lists: SplitLists = scan_lists(lists_dir, split)
        of_users = functools.partial(_is_of_users, users=config.users)
        if config.users != "all":
            self.lists = _counted(decoded_lists(lists_dir, split, encoder, None).filter(of_users))
            if not self.lists.count:
                raise InputError(f"data.users: the split {split!r} has no list of the {config.users} users")
        self.count = self.lists.count
        self.sizes: Sequence[int] = (
            evaluation_sizes(self.lists, config)
            if training_slots is None
            else training_sizes(self.lists, config, training_slots)
        )
        lists = decoded_lists(
            lists_dir,
            split,
            encoder,
            self.sizes[0] if len(self.sizes) == 1 else None,
            _FILES_AT_ONCE if split == "train" else 1,
        )
        if config.users != "all":
            lists = lists.filter(of_users)
        # Of several sizes a list keeps its own length until it is batched.
        max_size = self.sizes[-1]
        self.list_bytes = sum(
            spec.dtype.size * math.prod(size or max_size for size in spec.shape)
            for spec in lists.element_spec.values()
        )
        self.cached = config.cache and self.count * self.list_bytes <= config.cache_mib * 2**20
        self._lists = lists.cache() if self.cached else lists
        buffer = max(config.batch_size, config.shuffle_buffer_mib * 2**20 // self.list_bytes)
        self.shuffle_buffer = min(buffer, self.count)

    def check_positives(self) -> None:
        """Refuses lists from which nothing can be learnt or measured.

        Raises:
            InputError: No list has a candidate with a label of 1 or more.
        """
        if not self.lists.with_positive:
            raise InputError(
                f"{self.lists_dir}: no list of the split {self.split!r} has a candidate with a label of 1 or "
                "more, so nothing can be learnt or measured there; look at the declaration's label rules"
            )

    def training_batches(
        self, seed: int, epoch: int = 0, epochs: int = 1, first_step: int = 0
    ) -> tf.data.Dataset:
        """The shuffled batches of epochs, one epoch after the other, every list in one batch of each.

        An epoch's order is a function of `seed` and its number. The last batch of a size is filled up with
        empty lists, so that every batch has the same number and every epoch `steps_per_epoch` batches.

        Args:
            seed: Of the order.
            epoch: The first epoch, from 0.
            epochs: How many there are.
            first_step: Where the first epoch begins, in batches.
        """
        batches = self._epoch(seed, epoch).skip(first_step)
        for each in range(epoch + 1, epoch + epochs):
            batches = batches.concatenate(self._epoch(seed, each))
        options = _options()
        # Workers take their parts of every batch, not files of their own: the same batches for any number.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.prefetch(_BATCHES_AHEAD).with_options(options)

    def _epoch(self, seed: int, epoch: int) -> tf.data.Dataset:
        lists = self._lists.shuffle(
            self.shuffle_buffer, seed=seed * 1_000_003 + epoch, reshuffle_each_iteration=False
        )
        fill = functools.partial(filled_batch, batch_size=self.config.batch_size)
        return self._batched(lists).map(_as_it_is(fill))

    def batches(self) -> tf.data.Dataset:
        """All lists in file order; the last batch of a size may be smaller."""
        return self._batched(self._lists).prefetch(_BATCHES_AHEAD).with_options(_options())

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the same for every order of the lists."""
        return batches_of_sizes(self.lists.lengths, self.sizes, self.config.batch_size)

    def _batched(self, lists: tf.data.Dataset) -> tf.data.Dataset:
        sizes, batch_size = self.sizes, self.config.batch_size
        if len(sizes) == 1:
            return lists.batch(batch_size).map(with_empty_features)
        if self.lists.max_length > sizes[-1]:
            lists = lists.map(lambda encoded: _cut_candidates(encoded, sizes[-1]))
        return lists.bucket_by_sequence_length(
            lambda encoded: tf.shape(encoded["mask"])[0],
            bucket_boundaries=[size + 1 for size in sizes],
            bucket_batch_sizes=[batch_size] * (len(sizes) + 1),
            pad_to_bucket_boundary=True,
            padding_values={
                key: tf.cast(_PADDING.get(key, 0), spec.dtype) for key, spec in lists.element_spec.items()
            },
        ).map(with_empty_features)
