"""The order that scores stand for: the one rule by which every metric ranks candidates."""

from __future__ import annotations

import math

import tensorflow as tf


def ranks(scores: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """Rank of each candidate by score, 1 for the best; equal scores keep the candidates' order.

    Candidates stand in the initial ranker's order, so the initial order breaks ties. The exported model's
    `ranking` follows the same rule: metrics measure the list that is served, and chance has no part in them.
    NaN, which sorting takes for the largest, ranks with -inf.

    Args:
        scores: [batch, n], higher is better.
        where: bool [batch, n], the candidates that count; None counts all. The others rank last.

    Returns:
        int32 [batch, n].

    >>> ranks([[0.5, 0.9, 0.5, 0.7]], where=[[True, True, True, False]]).numpy().tolist()
    [[2, 1, 3, 4]]
    """
    scores = tf.convert_to_tensor(scores)
    if scores.dtype.is_floating:
        scores = tf.where(tf.math.is_nan(scores), tf.constant(-math.inf, scores.dtype), scores)
    order = tf.argsort(scores, axis=-1, direction="DESCENDING", stable=True)
    if where is not None:
        left_out = tf.cast(tf.logical_not(where), tf.int32)
        behind = tf.argsort(tf.gather(left_out, order, batch_dims=1), axis=-1, stable=True)
        order = tf.gather(order, behind, batch_dims=1)
    return tf.argsort(order, axis=-1) + 1


def ratio(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """numerator / denominator, NaN where the denominator is 0: the metric is not defined there."""
    defined = denominator > 0.0
    return tf.where(defined, numerator / tf.where(defined, denominator, 1.0), float("nan"))
