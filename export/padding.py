"""Batches and lists padded to a few sizes, so that XLA compiles few shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from psad_tf.features import HISTORY_PREFIX
from psad_tf.serving.contract import Limits


@dataclasses.dataclass(frozen=True)
class Padding:
    """What is added to a request and cut off its answer.

    Args:
        lists: int32, how many there are.
        candidates: int32, of the longest.
        more_lists: int32, to be added.
        more_candidates: int32, to be added to each.
    """

    lists: tf.Tensor
    candidates: tf.Tensor
    more_lists: tf.Tensor
    more_candidates: tf.Tensor

    @classmethod
    def of(cls, lists: tf.Tensor, candidates: tf.Tensor, limits: Limits) -> Padding:
        """To the next power of 2 and the next of `limits.list_sizes`; both fit within the limits."""
        powers = tuple(1 << power for power in range(limits.max_slots.bit_length()))
        more = _next_size(lists, powers) - lists, _next_size(candidates, limits.list_sizes) - candidates
        return cls(lists, candidates, *more)

    def of_lists(self, values: tf.Tensor) -> tf.Tensor:
        """Values [lists, ...]."""
        return _padded(values, self.more_lists)

    def of_candidates(self, values: tf.Tensor) -> tf.Tensor:
        """Values [lists, candidates, ...]."""
        return _padded(values, self.more_lists, self.more_candidates)

    def of_raw(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The inputs of `serving_default` or `rerank_masked`."""
        return {
            name: self.of_candidates(values)
            if values.shape.rank > 1 and values.shape[1] is None and not name.startswith(HISTORY_PREFIX)
            else self.of_lists(values)
            for name, values in raw.items()
        }

    def cut(self, answer: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The outputs without what was added."""
        ends = slice(self.lists), slice(self.candidates)
        return {name: values[ends[: values.shape.rank]] for name, values in answer.items()}


def _padded(values: tf.Tensor, *more: tf.Tensor) -> tf.Tensor:
    ends = [*more, *[0] * (values.shape.rank - len(more))]
    return tf.pad(values, [[0, end] for end in ends], constant_values=tf.zeros([], values.dtype))


def _next_size(size: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_min(tf.where(tf.constant(sizes) >= size, sizes, sizes[-1]))
