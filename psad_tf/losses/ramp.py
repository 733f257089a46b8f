"""The distillation weight's rise."""

from __future__ import annotations

import tensorflow as tf


def ramp(step: tf.Tensor, steps: int) -> tf.Tensor:
    """The distillation weight's rise: min(1, (step + 1) / (steps + 1)), float32 scalar.

    It is above 0 from the first step, and 1 at once when `steps` is 0.
    """
    return tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / (steps + 1.0))
