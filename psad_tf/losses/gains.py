"""Graded labels as gains between 0 and 1."""

from __future__ import annotations

import tensorflow as tf


def gains(labels: tf.Tensor, max_label: float) -> tf.Tensor:
    """The gain of a label, as in NDCG, on the scale of the declaration's highest label.

    g = (2^label - 1) / (2^max - 1); of labels 0 and 1 it is the label.

    Args:
        labels: float32, any shape, 0 is irrelevant.
        max_label: The highest label that the declaration's grades can give, above 0.

    Returns:
        float32 in [0, 1], of the shape of `labels`.

    >>> [round(float(gain), 4) for gain in gains(tf.constant([0.0, 1.0, 2.0]), 2.0)]
    [0.0, 0.3333, 1.0]
    """
    return tf.clip_by_value((tf.pow(2.0, labels) - 1.0) / (2.0**max_label - 1.0), 0.0, 1.0)
