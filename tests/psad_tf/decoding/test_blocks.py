"""Decoding with a scorer whose logits are known."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.decoding.blocks import decode

LOGITS = np.array([0.3, 2.0, -1.0, 1.1, 0.0, 1.9, -0.4], np.float32)
MASK = np.array([True, True, True, True, True, True, False])
BEST_FIRST = [1, 5, 3, 0, 4, 2]


class Fixed:
    """Gives every slot logits that are known beforehand, [slots, n]."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = tf.constant(logits, tf.float32)

    def begin(self) -> tf.Tensor:
        return tf.zeros([1])

    def step(
        self, start: int, size: int, previous: tf.Tensor | None, state: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.logits[tf.newaxis, start : start + size]
        return tf.repeat(logits, tf.shape(state)[0], axis=0), state


@pytest.mark.parametrize("strategy", ["greedy", "assignment", "beam"])
@pytest.mark.parametrize("block_size", [1, 2, 4, 6])
def test_slots_that_agree_are_filled_best_first(strategy, block_size):
    scorer = Fixed(np.repeat(LOGITS[np.newaxis], 6, axis=0))
    decoded = decode(scorer, tf.constant([MASK]), 6, block_size, strategy)
    assert decoded.order.numpy().tolist() == [BEST_FIRST]


@pytest.mark.parametrize("strategy", ["greedy", "assignment", "beam"])
def test_a_slot_that_is_sure_of_another_candidate_gets_it(strategy):
    logits = np.repeat(LOGITS[np.newaxis], 3, axis=0)
    logits[2, 2] = 9.0
    decoded = decode(Fixed(logits), tf.constant([MASK]), 3, 3, strategy)
    assert decoded.order.numpy().tolist() == [[1, 5, 2]]


def test_assignment_has_the_largest_sum_of_discounted_probabilities():
    logits = np.log(np.array([[0.5, 0.45, 0.05], [0.55, 0.05, 0.40]], np.float32))
    everything = tf.ones([1, 3], tf.bool)
    # 0.45 + 0.55 / log2(3) against 0.5 + 0.40 / log2(3): greedy takes the larger first term, 0.5.
    assert decode(Fixed(logits), everything, 2, 2, "greedy").order.numpy().tolist() == [[0, 2]]
    assert decode(Fixed(logits), everything, 2, 2, "assignment").order.numpy().tolist() == [[1, 0]]
