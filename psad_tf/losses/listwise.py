"""The student's ranking loss on shown labels."""

from __future__ import annotations

import tensorflow as tf
from tensorflow_ranking.python import losses_impl

from psad_tf.losses.reduction import mean


def listwise_loss(scores: tf.Tensor, labels: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """The student's ranking loss: TensorFlow Ranking's softmax loss on gains 2^label - 1.

    L = mean over lists with a positive label of -sum_i g_i log softmax(s)_i / sum_i g_i.

    Args:
        scores: float32 [batch, n].
        labels: float32 [batch, n].
        where: bool [batch, n].

    Returns:
        A float32 scalar.

    >>> scores, labels = tf.constant([[0.0, 0.0], [9.0, 9.0]]), tf.constant([[1.0, 0.0], [0.0, 0.0]])
    >>> round(float(listwise_loss(scores, labels, tf.constant([[True] * 2] * 2))), 4)
    0.6931
    """
    gains = tf.where(where, tf.pow(2.0, labels) - 1.0, 0.0)
    loss = losses_impl.SoftmaxLoss(name="listwise")
    losses, total_gains = loss.compute_unreduced_loss(gains, scores, where)  # [batch] each
    return mean(losses, total_gains > 0.0)
