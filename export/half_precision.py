"""Weights stored in float16, computed with in float32: half the size on disk and in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


class HalfVariable:
    """A float16 variable that reads as float32, rows cast one by one where it is looked up.

    Stands in for a layer's variable while a graph is traced.

    Args:
        variable: The float32 variable whose value is stored.
    """

    def __init__(self, variable: tf.Variable) -> None:
        self.stored = tf.Variable(
            tf.cast(variable, tf.float16), trainable=False, name=variable.name.split(":")[0]
        )
        self.shape = variable.shape
        self.dtype = variable.dtype

    def sparse_read(self, indices: tf.Tensor, name: str | None = None) -> tf.Tensor:
        """Looks up rows; `tf.gather` calls this, so that the table is never cast whole."""
        return tf.cast(self.stored.sparse_read(indices), self.dtype, name=name)

    def value(self) -> tf.Tensor:
        """The whole tensor in float32."""
        return tf.cast(self.stored, self.dtype)


def _to_tensor(
    value: HalfVariable, dtype: Any = None, name: str | None = None, as_ref: bool = False
) -> tf.Tensor:
    del as_ref
    return tf.cast(value.stored, dtype or value.dtype, name=name)


tf.register_tensor_conversion_function(HalfVariable, _to_tensor)


def half_precision(
    model: tf.keras.Model,
) -> tuple[Callable[[], contextlib.AbstractContextManager[None]], list[tf.Variable]]:
    """Prepares a model's matrices for storage in float16; vectors and scalars stay as they are.

    Args:
        model: A built model.

    Returns:
        A context manager within which the model reads the float16 matrices, and the variables that
        then hold its weights.
    """
    places: list[tuple[dict[str, Any], str, Any, HalfVariable]] = []
    halves: dict[Any, HalfVariable] = {}
    for layer in model.submodules:
        for attribute, value in vars(layer).items():
            if isinstance(value, tf.Variable) and value.shape.rank >= 2 and value.dtype == tf.float32:
                half = halves.setdefault(value.ref(), HalfVariable(value))
                places.append((vars(layer), attribute, value, half))

    @contextlib.contextmanager
    def swapped() -> Iterator[None]:
        for attributes, name, _, half in places:
            attributes[name] = half
        try:
            yield
        finally:
            for attributes, name, value, _ in places:
                attributes[name] = value

    weights = [halves[w.ref()].stored if w.ref() in halves else w for w in model.weights]
    return swapped, weights
