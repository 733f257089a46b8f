"""Pushing explicit negatives away."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.reduction import mean_of_lists
from psad_tf.masking import masked_softmax


def unlikelihood(
    logits: tf.Tensor, negatives: tf.Tensor, *, where: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Pushes explicit negatives out of the slots that still have better candidates.

    L = mean over lists of sum_l w_l (-sum_i neg_i log(1 - p[l, i])) / sum_l w_l.

    Args:
        logits: float32 [batch, L, n].
        negatives: float32 [batch, n], 1 for explicit negatives.
        where: bool [batch, L, n], the candidates to choose among, from `slot_availability`.
        weights: float32 [batch, L], from `slot_targets`.

    Returns:
        A float32 scalar.

    Reference: Welleck et al., "Neural Text Generation with Unlikelihood Training", ICLR 2020.
    """
    probabilities = masked_softmax(logits, where)
    terms = -tf.math.log(tf.maximum(1.0 - probabilities, 1e-6)) * negatives[:, tf.newaxis]
    return mean_of_lists(tf.reduce_sum(terms, -1), weights=weights)
