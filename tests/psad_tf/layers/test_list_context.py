"""Features relative to the list: padding and the list's scale do not count."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from psad_tf.layers.list_context import standardized_in_list


def test_values_have_mean_zero_and_unit_deviation_among_the_present():
    rng = np.random.default_rng(1)
    values, mask = rng.normal(3.0, 20.0, (4, 9, 2)), np.arange(9)[None] < np.array([[9], [5], [2], [7]])
    relative = standardized_in_list(tf.constant(values, tf.float32), tf.constant(mask)).numpy()
    for row, present in zip(relative, mask, strict=True):
        np.testing.assert_allclose(row[present].mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(row[present].std(0), 1.0, atol=1e-2)
        assert (row[~present] == 0.0).all()


def test_what_stands_in_padding_does_not_count():
    values = np.random.default_rng(2).normal(size=(2, 6, 3)).astype(np.float32)
    mask = tf.constant(np.arange(6)[None] < np.array([[4], [6]]))
    other = np.where(mask.numpy()[..., None], values, 1e6).astype(np.float32)
    np.testing.assert_array_equal(standardized_in_list(values, mask), standardized_in_list(other, mask))


def test_a_value_that_all_candidates_share_and_an_empty_list_give_zero():
    values = tf.fill([2, 5, 1], 7.0)
    mask = tf.constant([[True] * 5, [False] * 5])
    np.testing.assert_array_equal(standardized_in_list(values, mask), np.zeros((2, 5, 1)))
