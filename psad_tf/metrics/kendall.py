"""How alike two models order a list."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.masking import everywhere
from psad_tf.metrics.ranks import ranks, ratio


def kendall_agreement(one: tf.Tensor, other: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """Kendall's tau of the two orders, (agreeing - disagreeing pairs) / pairs.

    Args:
        one: Scores of one model, [batch, n]; `ranks` says what equal ones mean.
        other: Scores of the other, [batch, n].
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        float32 [batch], 1 for the same order, -1 for the reverse; NaN for lists of fewer than two.

    >>> round(float(kendall_agreement([[3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]])[0]), 4)
    0.3333
    """
    where = everywhere(one, where)
    signs = [
        tf.sign(rank[:, tf.newaxis] - rank[:, :, tf.newaxis])
        for rank in (ranks(one, where=where), ranks(other, where=where))
    ]
    pairs = tf.cast(where[:, :, tf.newaxis] & where[:, tf.newaxis], tf.float32)
    agreeing = tf.reduce_sum(tf.cast(signs[0] * signs[1], tf.float32) * pairs, [1, 2])
    count = tf.reduce_sum(tf.cast(where, tf.float32), -1)
    return ratio(agreeing, count * (count - 1.0))
