"""Pushing explicit negatives away."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.layers.attention import masked_softmax
from psad_tf.losses.reduction import mean_of_lists


def unlikelihood(
    logits: tf.Tensor, available: tf.Tensor, negatives: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Pushes explicit negatives out of the slots that still have better candidates.

    L = mean over lists of sum_l w_l (-sum_i neg_i log(1 - p[l, i])) / sum_l w_l.

    Args:
        logits: float32 [batch, L, n].
        available: bool [batch, L, n].
        negatives: float32 [batch, n], 1 for explicit negatives.
        weights: float32 [batch, L], from `slot_targets`.

    Returns:
        A float32 scalar.

    Reference: Welleck et al., "Neural Text Generation with Unlikelihood Training", ICLR 2020.
    """
    probabilities = masked_softmax(logits, available)
    terms = -tf.math.log(tf.maximum(1.0 - probabilities, 1e-6)) * negatives[:, tf.newaxis]
    return mean_of_lists(tf.reduce_sum(terms, -1), weights)
