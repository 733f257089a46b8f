"""Area under the ROC curve of one list."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.masking import everywhere
from psad_tf.metrics.ranks import ranks, ratio


def auc(scores: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """Share of (positive, other) pairs in which the positive ranks first. A label of 1 or more is positive.

    Ranks have no ties (`ranks`), so no pair counts half.

    Args:
        scores: [batch, n], higher is better.
        labels: [batch, n], graded.
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        float32 [batch]; NaN for a list without a positive or without any other candidate.

    >>> float(auc([[3.0, 2.0, 1.0]], [[0.0, 1.0, 0.0]])[0])
    0.5
    """
    labels = tf.cast(labels, tf.float32)
    where = everywhere(labels, where)
    rank = tf.cast(ranks(scores, where=where), tf.float32)
    positive = tf.cast(where & (labels >= 1.0), tf.float32)
    positives, counted = tf.reduce_sum(positive, -1), tf.reduce_sum(tf.cast(where, tf.float32), -1)
    others = counted - positives
    # The Mann-Whitney statistic: a positive of rank r stands above counted - r, positives among them.
    above = tf.reduce_sum(positive * (counted[:, tf.newaxis] - rank), -1)
    return ratio(above - positives * (positives - 1.0) / 2.0, positives * others)
