"""Normalized discounted cumulative gain."""

from __future__ import annotations

import math

import tensorflow as tf

from psad_tf.masking import everywhere
from psad_tf.metrics.ranks import ranks, ratio


def ndcg(
    scores: tf.Tensor, labels: tf.Tensor, *, where: tf.Tensor | None = None, topn: int | None = None
) -> tf.Tensor:
    """NDCG@k = DCG@k of the ranked list / DCG@k of the ideal one.

    DCG@k = sum over ranks r <= k of (2^label - 1) / log2(1 + r).

    Args:
        scores: [batch, n], higher is better; `ranks` says what equal ones mean.
        labels: [batch, n], graded, 0 is irrelevant.
        where: bool [batch, n], the candidates that count; None counts all.
        topn: k; None takes the whole list.

    Returns:
        float32 [batch]; NaN for a list without a positive label.

    Reference: Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", 2002, with the
    exponential gain of Burges et al., ICML 2005.

    >>> [round(float(each), 4) for each in ndcg([[3.0, 2.0, 1.0]], [[0.0, 2.0, 0.0]])]
    [0.6309]
    """
    labels = tf.cast(labels, tf.float32)
    where = everywhere(labels, where)
    gains = tf.where(where, tf.pow(2.0, labels) - 1.0, 0.0)
    achieved = _dcg(gains, ranks(scores, where=where), topn)
    return ratio(achieved, _dcg(gains, ranks(gains), topn))


def _dcg(gains: tf.Tensor, rank: tf.Tensor, topn: int | None) -> tf.Tensor:
    discounts = math.log(2.0) / tf.math.log1p(tf.cast(rank, tf.float32))
    counted = True if topn is None else rank <= topn
    return tf.reduce_sum(tf.where(counted, gains * discounts, 0.0), -1)
