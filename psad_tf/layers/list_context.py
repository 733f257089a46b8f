"""What a candidate's numbers are in its list: standardized among the candidates, in one pass."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.masking import mean_weights

SMALLEST_VARIANCE = 0.01


def standardized_in_list(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Each value's distance from its list's mean, in standard deviations of the list.

    r_i = (x_i - mean_j x_j) / sqrt(variance_j x_j + 0.01), over the candidates where `mask` is true; a
    value that all candidates share gives 0. Linear in the length of the list.

    Args:
        values: float [batch, n, features], of about unit scale over all lists.
        mask: bool [batch, n], false at padding.

    Returns:
        Of the type and shape of `values`, 0 at padding.

    >>> values = tf.constant([[[1.0], [3.0], [99.0]]])
    >>> relative = standardized_in_list(values, tf.constant([[True, True, False]]))
    >>> [round(float(each), 3) for each in relative[0, :, 0]]
    [-0.995, 0.995, 0.0]
    """
    weights = mean_weights(mask, values.dtype)
    centred = (values - tf.matmul(weights, values)) * tf.expand_dims(tf.cast(mask, values.dtype), 2)
    variance = tf.matmul(weights, tf.square(centred))  # [batch, 1, features]
    return centred * tf.math.rsqrt(variance + SMALLEST_VARIANCE)


def relative_to_list(candidates: tf.Tensor, mask: tf.Tensor) -> list[tf.Tensor]:
    """Each candidate against the mean and the maximum of its list.

    Args:
        candidates: [batch, n, d].
        mask: bool [batch, n], false at padding.

    Returns:
        c_i - mean_j c_j and max_j c_j - c_i, [batch, n, d] each.
    """
    present = tf.cast(mask, candidates.dtype)[..., tf.newaxis]
    count = tf.maximum(tf.reduce_sum(present, 1, keepdims=True), 1.0)
    mean = tf.reduce_sum(candidates * present, 1, keepdims=True) / count
    lowest = tf.constant(candidates.dtype.min, candidates.dtype)
    highest = tf.reduce_max(tf.where(present > 0, candidates, lowest), 1, keepdims=True)
    highest = tf.where(tf.reduce_any(mask, -1)[:, tf.newaxis, tf.newaxis], highest, 0.0)
    return [candidates - mean, highest - candidates]
