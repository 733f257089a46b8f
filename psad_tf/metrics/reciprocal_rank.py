"""Reciprocal rank, whose mean over lists is MRR."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.masking import everywhere
from psad_tf.metrics.ranks import ranks


def reciprocal_rank(scores: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """1 / rank of the first positive. A label of 1 or more is positive.

    Args:
        scores: [batch, n], higher is better; `ranks` says what equal ones mean.
        labels: [batch, n], graded.
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        float32 [batch]; NaN for a list without a positive.

    >>> float(reciprocal_rank([[3.0, 2.0, 1.0]], [[0.0, 1.0, 1.0]])[0])
    0.5
    """
    labels = tf.cast(labels, tf.float32)
    where = everywhere(labels, where)
    positive = where & (labels >= 1.0)
    reciprocals = tf.cast(positive, tf.float32) / tf.cast(ranks(scores, where=where), tf.float32)
    return tf.where(tf.reduce_any(positive, -1), tf.reduce_max(reciprocals, -1), float("nan"))
