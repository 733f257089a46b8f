"""Likelihood of an order under scores."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.ideal_list import slot_availability
from psad_tf.losses.reduction import mean_of_lists
from psad_tf.masking import LARGE_NEGATIVE, everywhere


def plackett_luce_loss(
    scores: tf.Tensor,
    order: tf.Tensor,
    *,
    where: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Negative log-likelihood of the first slots of a list under the Plackett-Luce model.

    L = mean over lists of sum_l w_l (log sum_{j not before l} exp(s_j) - s_{order_l}) / sum_l w_l, over
    the filled slots l.

    Args:
        scores: s, float32 [batch, n].
        order: int32 [batch, L], the candidate at each slot, -1 where empty; no candidate twice.
        where: bool [batch, n], the candidates that count; None counts all.
        weights: w, float32 [L]; None weighs every filled slot the same.

    Returns:
        A float32 scalar.

    Reference: Xia et al., "Listwise Approach to Learning to Rank", ICML 2008 (ListMLE).

    >>> scores = tf.constant([[0.0, 0.0, 0.0]])
    >>> round(float(plackett_luce_loss(scores, tf.constant([[2, 0]]))), 4)  # log 3 and log 2
    0.8959
    """
    left = slot_availability(order, 1, where=everywhere(scores, where))  # [batch, L, n]
    totals = tf.reduce_logsumexp(tf.where(left, scores[:, tf.newaxis], LARGE_NEGATIVE), -1)
    placed = tf.gather(scores, tf.maximum(order, 0), batch_dims=1)
    filled = tf.cast(order >= 0, tf.float32)
    return mean_of_lists(
        tf.where(order >= 0, totals - placed, 0.0), weights=filled if weights is None else filled * weights
    )
