"""A model's layers as a serving graph has them: fewer operations, the same numbers.

A list of 50 costs a graph less for its arithmetic than for its operations, so

- weights are constants, folded and fused by TensorFlow when the graph is loaded; only embedding tables, which
  may be large, stay variables;
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

from psad_tf.export.half_precision import HalfVariable
from psad_tf.features import PADDING_ID
from psad_tf.layers.embedding import CompositionalEmbedding, TableEmbedding


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
        self._model = model
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
                values = values.astype(np.float16)
            stored = tf.Variable(values, trainable=False, name=name)
            self.variables.append(stored)
            if weight.ref() in rows | factors:
                self._tables[weight.ref()] = HalfVariable(stored) if half else stored
            else:
                self._constants[weight.ref()] = values

    @contextlib.contextmanager
    def in_graph(self, lists: tf.Tensor, candidates: tf.Tensor) -> Iterator[None]:
        """Within the block, calls of the model add the serving form of its layers to the current graph.

        Args:
            lists: int32, size of the first axis.
            candidates: int32, size of the second axis wherever it is not known while the graph is traced.
        """
        served_calls: dict[type, Callable[..., tf.Tensor]] = {
            tf.keras.layers.Dense: functools.partial(dense_as_matmul, sizes=(lists, candidates)),
            TableEmbedding: rows_of_table,
        }
        replaced: list[tuple[dict[str, Any], str, tf.Variable]] = []
        calls: list[tf.keras.layers.Layer] = []
        constants: dict[Any, tf.Tensor] = {}
        for layer in self._model.submodules:
            attributes = vars(layer)
            for name, value in list(attributes.items()):
                if isinstance(value, tf.Variable):
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

    def _constant(self, weight: tf.Variable) -> tf.Tensor:
        return tf.cast(tf.constant(self._constants[weight.ref()], name=_name(weight)), weight.dtype)


def _name(weight: tf.Variable) -> str:
    return str(weight.name.partition(":")[0])


def dense_as_matmul(
    layer: tf.keras.layers.Dense, inputs: tf.Tensor, sizes: tuple[tf.Tensor, tf.Tensor]
) -> tf.Tensor:
    """`layer(inputs)` by one MatMul.

    Args:
        layer: The layer.
        inputs: [batch, d] or [batch, n, d].
        sizes: batch, and n where it is not known while the graph is traced.
    """
    inputs = tf.cast(inputs, layer.compute_dtype)
    flat = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, [-1, inputs.shape[-1]])
    outputs = tf.matmul(flat, tf.cast(layer.kernel, layer.compute_dtype))
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.cast(layer.bias, layer.compute_dtype))
    if layer.activation is not None:
        outputs = layer.activation(outputs)
    if inputs.shape.rank == 2:
        return outputs
    length = sizes[1] if inputs.shape[1] is None else inputs.shape[1]
    return tf.reshape(outputs, [sizes[0], length, layer.units])


def rows_of_table(layer: TableEmbedding, ids: tf.Tensor) -> tf.Tensor:
    """`layer(ids)`; the padding row is zeros."""
    return tf.gather(layer.table, ids)
