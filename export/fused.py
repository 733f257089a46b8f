"""Dense layers as one matrix product each, while a serving graph is traced.

Keras multiplies inputs of three dimensions by `tf.tensordot`, some twenty operations that take a list of 50
longer than the product itself. A batch of lists is a matrix to a dense layer, so one reshape before and one
after the product do the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf


def dense_as_matmul(layer: tf.keras.layers.Dense, inputs: tf.Tensor) -> tf.Tensor:
    """`layer(inputs)` by one MatMul; `inputs` [..., d]."""
    inputs = tf.cast(inputs, layer.compute_dtype)
    kernel = tf.cast(layer.kernel, layer.compute_dtype)
    flat = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, [-1, inputs.shape[-1]])
    outputs = tf.matmul(flat, kernel)
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.cast(layer.bias, layer.compute_dtype))
    if layer.activation is not None:
        outputs = layer.activation(outputs)
    if inputs.shape.rank == 2:
        return outputs
    return tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [layer.units]], 0))


@contextlib.contextmanager
def fused_dense(model: tf.keras.Model) -> Iterator[None]:
    """Within the block, a model's dense layers trace as `dense_as_matmul`."""
    layers = [layer for layer in model.submodules if type(layer) is tf.keras.layers.Dense]
    for layer in layers:
        layer.call = functools.partial(dense_as_matmul, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call
