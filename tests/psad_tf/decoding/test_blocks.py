"""Decoding with a scorer whose logits are known."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.decoding.blocks import STRATEGIES, decode

LOGITS = np.array([0.3, 2.0, -1.0, 1.1, 0.0, 1.9, -0.4], np.float32)
MASK = np.array([True, True, True, True, True, True, False])
BEST_FIRST = [1, 5, 3, 0, 4, 2]


class Fixed:
    """Values that are known beforehand: discounted sigmoids of logits [slots, n], the slots independent."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = tf.constant(logits, tf.float32)

    def begin(self) -> tf.Tensor:
        return tf.zeros([1])

    def block(
        self, start: int | tf.Tensor, size: int, previous: tf.Tensor, state: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.gather(self.logits, start + tf.range(size))[tf.newaxis]
        return tf.repeat(logits, tf.shape(state)[0], axis=0), state

    def value(self, logits: tf.Tensor, slot: int | tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(logits) / (tf.cast(slot, tf.float32) + 1.0)

    def place(self, picks: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        return state


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("block_size", [1, 2, 4, 6])
def test_slots_that_agree_are_filled_best_first(strategy, block_size):
    scorer = Fixed(np.repeat(LOGITS[np.newaxis], 6, axis=0))
    decoded = decode(scorer, tf.constant([MASK]), 6, block_size, strategy, beam_width=4)
    assert decoded.order.numpy().tolist() == [BEST_FIRST]
    expected = 1.0 / (1.0 + np.exp(-LOGITS[BEST_FIRST])) / (1.0 + np.arange(6))
    np.testing.assert_allclose(decoded.values[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "expected"), [("greedy", [0, 2]), ("assignment", [1, 0]), ("beam", [1, 0])]
)
def test_assignment_and_beam_look_beyond_the_first_slot(strategy, expected):
    logits = np.array([[2.0, 1.9, -3.0], [3.0, -3.0, -2.5]], np.float32)
    everything = tf.ones([1, 3], tf.bool)
    assert decode(Fixed(logits), everything, 2, 2, strategy, 3).order.numpy().tolist() == [expected]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_left_out_is_ranked_by_its_value_at_the_last_slot(strategy):
    scorer = Fixed(np.repeat(LOGITS[np.newaxis], 2, axis=0))
    scores = decode(scorer, tf.constant([MASK]), 2, 1, strategy, 2).scores[0].numpy()
    assert np.argsort(-scores).tolist() == [*BEST_FIRST, 6]
    assert scores[6] < 0 <= scores[:6].min()


@pytest.mark.parametrize(("block_size", "beam_width"), [(0, 1), (1, 0)])
def test_a_size_below_one_is_refused(block_size, beam_width):
    with pytest.raises(ValueError, match="must be at least 1"):
        decode(Fixed(LOGITS[np.newaxis]), tf.constant([MASK]), 1, block_size, "greedy", beam_width)
