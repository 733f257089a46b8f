"""Cross-entropy of predicted probabilities."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.reduction import mean


def pointwise_loss(probabilities: tf.Tensor, labels: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the probability that a candidate's label is 1 or more, the mean over candidates.

    Args:
        probabilities: float32 [batch, n].
        labels: float32 [batch, n].
        where: bool [batch, n].

    Returns:
        A float32 scalar.
    """
    positive = tf.cast(labels >= 1.0, tf.float32)
    clipped = tf.clip_by_value(probabilities, 1e-6, 1.0 - 1e-6)
    losses = -positive * tf.math.log(clipped) - (1.0 - positive) * tf.math.log(1.0 - clipped)
    return mean(losses, where)
