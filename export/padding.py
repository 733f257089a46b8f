"""Batches and lists padded to a few sizes, so that XLA compiles few shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from psad_tf.features import HISTORY_PREFIX
from psad_tf.serving.contract import ITEM_IDS, RANKING, Limits


@dataclasses.dataclass(frozen=True)
class Padding:
    """What is added to a request and cut off its answer.

    Args:
        sizes: int32 [2], how many lists there are, and how many candidates the longest has.
        ends: int32 [2, 2], what is added before and behind the lists, and the same of their candidates.
    """

    sizes: tf.Tensor
    ends: tf.Tensor

    @classmethod
    def of(cls, sizes: tf.Tensor, limits: Limits) -> Padding:
        """To the next power of 2 and the next of `limits.list_sizes`; both fit within the limits."""
        powers = [1 << power for power in range(limits.max_slots.bit_length())]
        known = max(len(powers), len(limits.list_sizes))
        steps = [[*each, *[each[-1]] * (known - len(each))] for each in (powers, limits.list_sizes)]
        last = [[each[-1]] for each in steps]
        padded = tf.reduce_min(tf.where(tf.constant(steps) >= tf.expand_dims(sizes, 1), steps, last), 1)
        return cls(sizes, tf.stack([[0, 0], padded - sizes], 1))

    def of_lists(self, values: tf.Tensor) -> tf.Tensor:
        """Values [lists, ...]."""
        return _padded(values, self.ends[:1])

    def of_candidates(self, values: tf.Tensor) -> tf.Tensor:
        """Values [lists, candidates, ...]."""
        return _padded(values, self.ends)

    def of_raw(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The inputs of `serving_default` or `rerank_masked`."""
        return {
            name: self.of_candidates(values)
            if values.shape.rank > 1 and values.shape[1] is None and not name.startswith(HISTORY_PREFIX)
            else self.of_lists(values)
            for name, values in raw.items()
        }

    def cut(self, answer: Mapping[str, tf.Tensor], top_m: int) -> dict[str, tf.Tensor]:
        """The outputs without what was added; `top_m` as in `GraphOptions`."""
        cut = {}
        of_ranking = tf.minimum(self.sizes, [tf.int32.max, top_m]) if top_m else self.sizes
        for name, values in answer.items():
            sizes = of_ranking if name in (RANKING, ITEM_IDS) else self.sizes
            cut[name] = tf.slice(values, [0, 0], sizes) if values.shape.rank == 2 else values[: sizes[0]]
        return cut


def _padded(values: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    others = values.shape.rank - ends.shape[0]
    if others:
        ends = tf.concat([ends, tf.zeros([others, 2], tf.int32)], 0)
    return tf.pad(values, ends, constant_values=tf.zeros([], values.dtype))
