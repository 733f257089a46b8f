"""Average precision, whose mean over lists is MAP."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from psad_tf.masking import everywhere
from psad_tf.metrics.ranks import ranks, ratio


def average_precision(
    scores: tf.Tensor,
    labels: tf.Tensor,
    *,
    where: tf.Tensor | None = None,
    topn: int | None = None,
    divide_by: Literal["positives", "found"] = "positives",
) -> tf.Tensor:
    """AP@k = sum over positives at ranks r <= k of precision@r, divided by a number of positives.

    precision@r is the share of positives among the first r. A label of 1 or more is positive.

    Args:
        scores: [batch, n], higher is better; `ranks` says what equal ones mean.
        labels: [batch, n], graded.
        where: bool [batch, n], the candidates that count; None counts all.
        topn: k; None takes the whole list.
        divide_by: `positives` divides by all positives of the list (TensorFlow Ranking's convention, in
            which a list of more than k positives cannot reach 1); `found` by those among the first k
            (LibRerank's), 0 where there is none.

    Returns:
        float32 [batch]; NaN for a list without a positive.

    >>> scores, labels = [[4.0, 3.0, 2.0, 1.0]], [[0.0, 1.0, 0.0, 1.0]]
    >>> float(average_precision(scores, labels, topn=2)[0])
    0.25
    >>> float(average_precision(scores, labels, topn=2, divide_by="found")[0])
    0.5
    """
    labels = tf.cast(labels, tf.float32)
    where = everywhere(labels, where)
    rank = ranks(scores, where=where)
    positive = where & (labels >= 1.0)
    # Positives in the order of rank: the precision at each is their number so far over its rank.
    order = tf.argsort(rank, axis=-1)
    hits = tf.cast(tf.gather(positive, order, batch_dims=1), tf.float32)
    places = tf.range(1.0, tf.cast(tf.shape(hits)[-1], tf.float32) + 1.0)
    counted = hits if topn is None else tf.where(places <= topn, hits, 0.0)
    summed = tf.reduce_sum(tf.cumsum(hits, axis=-1) / places * counted, -1)
    total, found = tf.reduce_sum(hits, -1), tf.reduce_sum(counted, -1)
    if divide_by == "positives":
        return ratio(summed, total)
    return tf.where(total > 0.0, tf.math.divide_no_nan(summed, found), float("nan"))
