"""Weights stored in float16, computed with in float32: half the size on disk and in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.errors import InputError


def halved(values: np.ndarray, name: str) -> np.ndarray:
    """Weights as float16.

    Raises:
        InputError: One would become infinite.
    """
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"{name} has values beyond 65,504, float16's largest: export without float16")
    return half


class HalfVariable:
    """A float16 variable that reads as float32, rows cast one by one where it is looked up.

    Stands in for a layer's variable while a graph is traced.

    Args:
        stored: The float16 variable.
    """

    def __init__(self, stored: tf.Variable) -> None:
        self.stored = stored
        self.shape = stored.shape
        self.dtype = tf.float32

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
