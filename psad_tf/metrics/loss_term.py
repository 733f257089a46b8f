"""A term of the loss: its mean over an epoch and its value at the last step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("psad_tf")
class LossTerm(tf.keras.metrics.Mean):
    """Mean over steps of a scalar; `last` is its value at the last step.

    Every replica adds the same value and keeps the same state, so reading or saving it asks no other
    replica; Keras' own metrics are summed over replicas whenever somebody reads them.

    Args:
        name: Under which it is reported.
        dtype: Of the sum.
    """

    def __init__(self, name: str = "loss", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.last = self.add_weight("last", initializer="zeros")

    def add_weight(self, name: str, **options: Any) -> tf.Variable:
        """A scalar of the state."""
        return super().add_weight(
            name,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            synchronization=tf.VariableSynchronization.ON_WRITE,
            **options,
        )

    def update_state(self, values: Any, sample_weight: Any = None) -> Any:
        """Adds a step's scalar; it has no weight."""
        self.last.assign(tf.cast(values, self.last.dtype))
        return super().update_state(values)
