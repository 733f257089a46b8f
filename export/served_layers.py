"""A model's weights and layers as a serving graph has them: fewer operations, the same numbers.

A list of 50 costs a graph less for its arithmetic than for its operations, so

- weights are constants, folded and fused by TensorFlow when the graph is loaded; only embedding tables beyond
  64 KiB stay variables;
- a dense layer is one matrix product: Keras multiplies inputs of three dimensions by `tf.tensordot`, some
  twenty operations;
- the padding row of an embedding table is zeros, so that rows need no mask.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.export.half_precision import HalfVariable, halved
from psad_tf.features import PADDING_ID
from psad_tf.layers.embedding import CompositionalEmbedding, TableEmbedding
from psad_tf.layers.mlp import MLP

CONSTANT_TABLE_BYTES = 65536  # reading a variable takes an operation as long as a small product


class ServedLayers:
    """Prepares a model for being traced into a serving graph.

    Args:
        model: A built model.
        float16: Store matrices in half the bytes; computation stays in float32.

    Attributes:
        variables: The model's weights as they are saved, in the order of `model.weights`. Those that the
            graph has as constants lie there for those who read the checkpoint.
    """

    def __init__(self, model: tf.keras.Model, float16: bool = False) -> None:
        self._float16 = float16
        self._tables: dict[Any, tf.Variable | HalfVariable] = {}
        self._constants: dict[Any, np.ndarray] = {}
        self.variables: list[tf.Variable] = []
        tables = [each for each in model.submodules if isinstance(each, TableEmbedding)]
        compositional = [each for each in model.submodules if isinstance(each, CompositionalEmbedding)]
        rows = {weight.ref() for layer in tables for weight in layer.weights}
        factors = {weight.ref() for layer in compositional for weight in layer.weights}
        for weight in model.weights:
            values, name = weight.numpy(), _name(weight)
            if weight.ref() in rows:
                values[PADDING_ID] = 0.0
            half = float16 and values.ndim >= 2
            if half:
                values = halved(values, name)
            stored = tf.Variable(values, trainable=False, name=name)
            self.variables.append(stored)
            if weight.ref() in rows | factors and values.nbytes > CONSTANT_TABLE_BYTES:
                self._tables[weight.ref()] = HalfVariable(stored) if half else stored
            else:
                self._constants[weight.ref()] = values

    @contextlib.contextmanager
    def in_graph(self, model: tf.keras.layers.Layer) -> Iterator[None]:
        """Within the block, calls of a model add the serving form of its layers to the current graph.

        Args:
            model: The model, or a layer of it.
        """
        served_calls: dict[type, Callable[..., tf.Tensor]] = {
            tf.keras.layers.Dense: dense_as_matmul,
            TableEmbedding: rows_of_table,
        }
        replaced: list[tuple[dict[str, Any], str, tf.Variable]] = []
        calls: list[tf.keras.layers.Layer] = []
        constants: dict[Any, tf.Tensor] = {}
        for layer in (model, *model.submodules):
            attributes = vars(layer)
            for name, value in list(attributes.items()):
                known = (
                    isinstance(value, tf.Variable) and value.ref() in self._tables.keys() | self._constants
                )
                if known:  # Keras' own counters are no weights
                    replaced.append((attributes, name, value))
                    served = self._tables.get(value.ref())
                    if served is None:
                        served = constants.setdefault(value.ref(), self._constant(value))
                    attributes[name] = served
            served_call = served_calls.get(type(layer))
            if served_call is not None:
                layer.call = functools.partial(served_call, layer)
                calls.append(layer)
        try:
            yield
        finally:
            for attributes, name, value in replaced:
                attributes[name] = value
            for layer in calls:
                del layer.call

    def values(self, weight: tf.Variable) -> np.ndarray:
        """A weight that is no embedding, as it is served, float32: for making other constants of it."""
        return self._constants[weight.ref()].astype(np.float32)

    def kernel_and_bias(self, layer: tf.keras.layers.Dense) -> tuple[np.ndarray, np.ndarray]:
        """What x W + b of a layer is made of; b is zeros where it has none."""
        kernel = self.values(layer.kernel)
        return kernel, self.values(layer.bias) if layer.use_bias else np.zeros(kernel.shape[1], np.float32)

    def constant(self, values: np.ndarray) -> tf.Tensor:
        """A constant of the current graph, float32; matrices lie in half the bytes with float16."""
        if self._float16 and values.ndim >= 2:
            return tf.cast(tf.constant(halved(values, "a matrix of the graph")), tf.float32)
        return tf.constant(values, tf.float32)

    def affine(self, inputs: tf.Tensor, kernel: np.ndarray, bias: np.ndarray) -> tf.Tensor:
        """x W + b of rows [m, d]; a bias of zeros is left out."""
        outputs = tf.matmul(inputs, self.constant(kernel))
        return tf.nn.bias_add(outputs, self.constant(bias)) if bias.any() else outputs

    def dense(
        self, layer: tf.keras.layers.Dense, inputs: tf.Tensor, kernel: np.ndarray | None = None
    ) -> tf.Tensor:
        """A dense layer of rows [m, d], or one that has another kernel."""
        own, bias = self.kernel_and_bias(layer)
        outputs = self.affine(inputs, own if kernel is None else kernel, bias)
        return outputs if layer.activation is None else layer.activation(outputs)

    def hidden(self, layer: MLP, inputs: tf.Tensor, kernel: np.ndarray | None = None) -> tf.Tensor:
        """An MLP of rows [m, d] up to its last, linear layer; `kernel` is its first one, if another."""
        for dense in layer.hidden:
            inputs, kernel = self.dense(dense, inputs, kernel), None
        return inputs

    def mlp(self, layer: MLP, inputs: tf.Tensor, kernel: np.ndarray | None = None) -> tf.Tensor:
        """An MLP of rows [m, d]; `kernel` is its first one, if another."""
        for dense in [*layer.hidden, layer.out]:
            inputs, kernel = self.dense(dense, inputs, kernel), None
        return inputs

    def _constant(self, weight: tf.Variable) -> tf.Tensor:
        return tf.cast(tf.constant(self._constants[weight.ref()], name=_name(weight)), weight.dtype)


def _name(weight: tf.Variable) -> str:
    return str(weight.name.partition(":")[0])


def as_rows(values: tf.Tensor) -> tf.Tensor:
    """Values [..., k] as rows [m, k]."""
    return values if values.shape.rank == 2 else tf.reshape(values, [-1, values.shape[-1]])


def dense_as_matmul(layer: tf.keras.layers.Dense, inputs: tf.Tensor) -> tf.Tensor:
    """`layer(inputs)` of [..., d] by one MatMul."""
    inputs = tf.cast(inputs, layer.compute_dtype)
    outputs = tf.matmul(as_rows(inputs), tf.cast(layer.kernel, layer.compute_dtype))
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.cast(layer.bias, layer.compute_dtype))
    if layer.activation is not None:
        outputs = layer.activation(outputs)
    if inputs.shape.rank == 2:
        return outputs
    sizes = zip(inputs.shape[:-1], tf.unstack(tf.shape(inputs)[:-1]), strict=True)
    return tf.reshape(outputs, [*(known or size for known, size in sizes), layer.units])


def rows_of_table(layer: TableEmbedding, ids: tf.Tensor) -> tf.Tensor:
    """`layer(ids)`; the padding row is zeros."""
    return tf.gather(layer.table, ids)
