"""Masked parts of layers against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from psad_tf.data.encoder import fitted
from psad_tf.masking import masked_mean, masked_softmax

MASK = np.array([[True, True, True, False], [True, False, False, False]])


def test_a_softmax_among_none_is_zero_and_others_ignore_what_is_masked() -> None:
    logits = np.array([[5.0, 1.0, 1.0, 100.0], [0.0, 3e4, -3e4, 7.0]], np.float32)
    found = masked_softmax(tf.constant(logits), tf.constant(MASK)).numpy()
    weights = np.exp(logits[0, :3] - logits[0, :3].max())
    np.testing.assert_allclose(found[0], [*(weights / weights.sum()), 0.0], atol=1e-6)
    np.testing.assert_array_equal(found[1], [1.0, 0.0, 0.0, 0.0])
    assert not np.any(masked_softmax(tf.constant(logits), tf.zeros_like(logits, tf.bool)))


def test_a_mean_is_of_the_entries_that_are_there() -> None:
    values = np.random.default_rng(1).normal(size=[2, 4, 3]).astype(np.float32)
    found = masked_mean(tf.constant(values), tf.constant(MASK))
    np.testing.assert_allclose(found, [values[0, :3].mean(0), values[1, 0]], atol=1e-6)
    assert not np.any(masked_mean(tf.constant(values), tf.zeros([2, 4], tf.bool)))


def test_a_history_is_cut_or_padded() -> None:
    values = tf.constant([[[1], [2], [3]]])
    assert fitted(values, 2, 0).numpy().tolist() == [[[1], [2]]]
    assert fitted(values, 4, 0).numpy().tolist() == [[[1], [2], [3], [0]]]
    assert fitted(values, 3, 0) is values
