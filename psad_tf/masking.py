"""Masked reductions: what counts is true in a mask, and padding never changes a result."""

from __future__ import annotations

import tensorflow as tf

LARGE_NEGATIVE = -1e9


def everywhere(values: tf.Tensor, where: tf.Tensor | None) -> tf.Tensor:
    """`where`, or true for every entry of `values` where it is None; bool [batch, n]."""
    return tf.ones_like(values, tf.bool) if where is None else tf.convert_to_tensor(where)


def masked_softmax(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis among the entries where `mask` is true.

    p_i = m_i exp(x_i) / sum_j m_j exp(x_j), and all zeros where the mask is all false. Computed in
    float32 whatever the type of the logits.

    Args:
        logits: [..., n].
        mask: bool, broadcastable to `logits`.

    Returns:
        float32 [..., n].

    >>> masked_softmax(tf.constant([0.0, 0.0, 5.0]), tf.constant([True, True, False])).numpy().tolist()
    [0.5, 0.5, 0.0]
    """
    allowed = tf.cast(mask, tf.float32)
    masked = tf.cast(logits, tf.float32) + (1.0 - allowed) * LARGE_NEGATIVE
    return tf.nn.softmax(masked, axis=-1) * allowed


def mean_weights(mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Weights whose matrix product with [batch, n, d] is the mean over the entries that are there.

    Args:
        mask: bool [batch, n].
        dtype: Of the weights.

    Returns:
        [batch, 1, n], rows summing to 1, or 0 where no entry is there.
    """
    present = tf.expand_dims(tf.cast(mask, dtype), 1)
    return present / tf.maximum(tf.reduce_sum(present, -1, keepdims=True), 1.0)


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean over a sequence of the entries that are there.

    Args:
        values: [batch, h, d].
        mask: bool [batch, h].

    Returns:
        [batch, d], 0 where no entry is there.
    """
    return tf.squeeze(tf.matmul(mean_weights(mask, values.dtype), values), 1)
