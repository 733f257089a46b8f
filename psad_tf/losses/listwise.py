"""The student's ranking loss on shown labels."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_ranking as tfr

from psad_tf.losses.reduction import mean
from psad_tf.masking import everywhere


def listwise_loss(scores: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """The student's ranking loss: TensorFlow Ranking's softmax loss on gains 2^label - 1.

    L = mean over lists with a positive label of -sum_i g_i log softmax(s)_i / sum_i g_i.

    Args:
        scores: float32 [batch, n].
        labels: float32 [batch, n].
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        A float32 scalar.

    >>> scores, labels = tf.constant([[0.0, 0.0], [9.0, 9.0]]), tf.constant([[1.0, 0.0], [0.0, 0.0]])
    >>> round(float(listwise_loss(scores, labels)), 4)
    0.6931
    """
    gains = tf.where(everywhere(labels, where), tf.pow(2.0, labels) - 1.0, -1.0)  # below 0: does not count
    total = tf.reduce_sum(tf.maximum(gains, 0.0), -1)
    losses = tfr.keras.losses.SoftmaxLoss(tf.keras.losses.Reduction.NONE)(gains, scores)  # [batch]
    return mean(tf.math.divide_no_nan(losses, total), where=total > 0.0)
