"""The optimizer: Adam's formula, a rate of its own for tables, lazy updates of touched rows alone."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from psad_tf.config import OptimizerConfig
from psad_tf.training.optimizer import WarmUpAndDecay, make_optimizer

PLAIN = OptimizerConfig(learning_rate=0.1, embedding_learning_rate=0.1, warmup_steps=0, clip_norm=1e9)


def run(optimizer, variable: tf.Variable, gradients: list) -> np.ndarray:
    for gradient in gradients:
        optimizer.apply_gradients([(gradient, variable)])
    return variable.numpy()


def test_dense_updates_equal_keras_adam():
    gradients = [tf.constant(each) for each in ([1.0, -2.0], [0.5, 0.0], [-3.0, 1.0])]
    ours = run(make_optimizer(PLAIN), tf.Variable([1.0, 1.0]), gradients)
    keras = run(tf.keras.optimizers.Adam(0.1, jit_compile=False), tf.Variable([1.0, 1.0]), gradients)
    np.testing.assert_allclose(ours, keras, rtol=3e-6)


def test_sparse_updates_change_touched_rows_alone_and_as_a_dense_update_would():
    rows, values = tf.constant([2, 0, 2]), tf.constant([[1.0], [4.0], [2.0]])
    sparse = tf.Variable(np.ones([4, 1], np.float32), name="embedding_table")
    dense = tf.Variable(np.ones([4, 1], np.float32), name="embedding_table")
    gradient = tf.IndexedSlices(values, rows, tf.constant([4, 1]))
    found = run(make_optimizer(PLAIN), sparse, [gradient])
    expected = run(make_optimizer(PLAIN), dense, [tf.convert_to_tensor(gradient)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(found[[1, 3]], 1.0)


def test_tables_learn_at_their_own_rate():
    config = OptimizerConfig(learning_rate=0.1, embedding_learning_rate=0.001, warmup_steps=0)
    moved = {
        name: 1.0 - float(run(make_optimizer(config), tf.Variable([1.0], name=name), [tf.constant([1.0])])[0])
        for name in ("kernel", "embedding_table")
    }
    np.testing.assert_allclose([moved["kernel"], moved["embedding_table"]], [0.1, 0.001], rtol=1e-3)


def test_warm_up_rises_linearly_then_stays():
    schedule = WarmUpAndDecay(1.0, 4)
    assert [round(float(schedule(step)), 2) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, clip_norm=1e-9)
    # Adam's step does not depend on the gradient's scale, until epsilon outweighs a tiny one.
    moved = 1.0 - float(run(make_optimizer(config), tf.Variable([1.0]), [tf.constant([5.0])])[0])
    assert moved < 0.01


def test_the_rate_falls_along_half_a_cosine_to_zero_and_stays_there():
    schedule = WarmUpAndDecay(2.0, 0, decay_steps=8)
    expected = [1.0 + np.cos(np.pi * step / 8) for step in range(9)] + [0.0, 0.0]
    np.testing.assert_allclose([float(schedule(step)) for step in range(11)], expected, atol=1e-6)
