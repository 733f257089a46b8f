"""Cross-entropy of predicted probabilities."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.reduction import mean
from psad_tf.masking import everywhere


def pointwise_loss(
    probabilities: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None
) -> tf.Tensor:
    """Cross-entropy of the probability that a candidate's label is 1 or more, the mean over candidates.

    Args:
        probabilities: float32 [batch, n].
        labels: float32 [batch, n].
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        A float32 scalar.

    >>> round(float(pointwise_loss(tf.constant([[0.5, 0.5]]), tf.constant([[1.0, 0.0]]))), 4)
    0.6931
    """
    positive = tf.cast(labels >= 1.0, tf.float32)
    clipped = tf.clip_by_value(probabilities, 1e-6, 1.0 - 1e-6)
    losses = -positive * tf.math.log(clipped) - (1.0 - positive) * tf.math.log(1.0 - clipped)
    return mean(losses, where=everywhere(labels, where))
