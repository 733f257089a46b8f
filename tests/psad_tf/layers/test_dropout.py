"""Randomness from a seed: the same everywhere, uniform, different by label, place and seed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.layers.dropout import SeededDropout, hashed_uniform

SEED = tf.constant([3, 1_000_000])


def test_numbers_are_the_same_eagerly_and_under_xla():
    compiled = tf.function(lambda seed: hashed_uniform([4, 5], seed, "a"), jit_compile=True)
    np.testing.assert_array_equal(hashed_uniform([4, 5], SEED, "a"), compiled(SEED))


def test_numbers_are_uniform_and_independent_of_neighbours_seeds_and_labels():
    base = hashed_uniform([50_000], SEED, "a").numpy()
    assert np.histogram(base, 20, (0, 1))[0] == pytest.approx(np.full(20, 2500), abs=250)
    others = [
        hashed_uniform([50_000], SEED, "b").numpy(),
        hashed_uniform([50_000], tf.constant([3, 1_000_001]), "a").numpy(),
        hashed_uniform([50_000], tf.constant([4, 1_000_000]), "a").numpy(),
        np.roll(base, 1),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.02


def test_dropout_keeps_the_mean_and_drops_the_share_it_says():
    out = SeededDropout(0.3, "x")(tf.ones([200, 200]), seed=SEED).numpy()
    assert (out == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert out.mean() == pytest.approx(1.0, abs=0.02)


def test_without_a_seed_nothing_is_dropped():
    inputs = tf.random.stateless_normal([3, 4], seed=[1, 2])
    np.testing.assert_array_equal(SeededDropout(0.9, "x")(inputs), inputs)
