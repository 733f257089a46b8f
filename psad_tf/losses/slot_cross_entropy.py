"""The policy head's loss."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.reduction import mean_of_lists
from psad_tf.masking import LARGE_NEGATIVE


def slot_cross_entropy(
    logits: tf.Tensor, targets: tf.Tensor, *, where: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """The teacher's loss: cross-entropy against the ideal list, slot by slot.

    L = mean over lists of sum_l w_l (-sum_i t[l, i] log p[l, i]) / sum_l w_l, p = softmax over the
    candidates of `where`; lists whose weights are all 0 are left out of the mean.

    Args:
        logits: float32 [batch, L, n].
        targets: float32 [batch, L, n], from `slot_targets`.
        where: bool [batch, L, n], the candidates to choose among, from `slot_availability`.
        weights: float32 [batch, L], from `slot_targets`.

    Returns:
        A float32 scalar.
    """
    masked = tf.where(where, logits, LARGE_NEGATIVE)
    log_probabilities = tf.nn.log_softmax(masked)
    losses = -tf.reduce_sum(tf.where(targets > 0.0, targets * log_probabilities, 0.0), -1)
    return mean_of_lists(losses, weights=weights)
