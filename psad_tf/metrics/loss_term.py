"""A term of the loss: its mean over an epoch and its value at the last step."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("psad_tf")
class LossTerm(tf.keras.metrics.Mean):
    """Mean over steps of a scalar that replicas hold parts of; `last` is its value at the last step.

    The value of a step is the sum of what the replicas add.

    Args:
        name: Under which it is reported.
        dtype: Of the sum.
    """

    def __init__(self, name: str = "loss", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.last = self.add_weight("last", initializer="zeros")

    def update_state(self, values: Any, sample_weight: Any = None) -> Any:
        """Adds a step's scalar; it has no weight."""
        self.last.assign(tf.cast(values, self.last.dtype))
        # The count of steps is summed over replicas too.
        return super().update_state(values * tf.distribute.get_strategy().num_replicas_in_sync)
