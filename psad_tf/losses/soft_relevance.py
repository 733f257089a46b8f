"""A generator's ranking as one number per candidate."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.discount import discount
from psad_tf.masking import everywhere


def soft_relevance(probabilities: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """The teacher's ranking as one number per candidate: its expected DCG discount.

    r_i = sum_l p[l, i] / log2(2 + l), scaled so that its mean over the list's candidates is 1.

    Args:
        probabilities: float32 [batch, L, n], of each candidate at each slot.
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        float32 [batch, n], 0 at padding.

    >>> r = soft_relevance(tf.constant([[[1.0, 0.0], [0.0, 1.0]]]))
    >>> [round(float(each), 4) for each in r[0]]
    [1.2263, 0.7737]
    """
    present = tf.cast(everywhere(probabilities[:, 0], where), tf.float32)
    mass = tf.einsum("bln,l->bn", probabilities, discount(probabilities.shape[1])) * present
    mean = tf.reduce_sum(mass, -1, keepdims=True) / tf.maximum(tf.reduce_sum(present, -1, keepdims=True), 1.0)
    return tf.math.divide_no_nan(mass, mean)
