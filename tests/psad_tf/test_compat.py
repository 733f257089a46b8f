"""The private interfaces do what the library counts on; an upgrade that changes one fails here."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from psad_tf.compat import adam_moments, kernel_devices


def test_the_registry_of_kernels_knows_which_devices_run_an_operation():
    tf.function(lambda: tf.constant(0) + 1, jit_compile=True)()  # registers XLA's kernels
    assert {"CPU", "XLA_GPU_JIT", "XLA_CPU_JIT"} <= kernel_devices("MatMul")
    assert kernel_devices("StringLength") == {"CPU"}
    assert kernel_devices("NoSuchOperation") == frozenset()


def test_adams_moments_are_those_of_the_variable():
    variables = [tf.Variable([0.0, 0.0]), tf.Variable([[0.0]])]
    adam = tf.keras.optimizers.Adam(beta_1=0.9, beta_2=0.99, jit_compile=False)
    adam.build(variables)
    adam.apply_gradients([(tf.constant([1.0, 2.0]), variables[0]), (tf.constant([[3.0]]), variables[1])])
    for variable, gradient in zip(variables, ([1.0, 2.0], [[3.0]]), strict=True):
        first, second = adam_moments(adam, variable)
        np.testing.assert_allclose(first, 0.1 * np.array(gradient), rtol=1e-5)
        np.testing.assert_allclose(second, 0.01 * np.square(gradient), rtol=1e-5)
