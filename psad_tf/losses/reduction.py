"""Means over a batch that several replicas may share."""

from __future__ import annotations

import tensorflow as tf


def over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over the replicas of `tf.distribute`; itself where there is one.

    Every mean below divides a replica's sum by the whole batch's count, so that summed gradients are
    those of one replica with the whole batch.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def mean(losses: tf.Tensor, *, where: tf.Tensor) -> tf.Tensor:
    """Mean of the entries where `where` is true, 0 if there is none."""
    count = over_replicas(tf.reduce_sum(tf.cast(where, tf.float32)))
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(where, losses, 0.0)), count)


def mean_of_lists(losses: tf.Tensor, *, weights: tf.Tensor) -> tf.Tensor:
    """Weighted mean over each list's slots, then the mean over the lists that have a weight.

    Args:
        losses: float32 [batch, slots].
        weights: float32 [batch, slots], at least 0.

    Returns:
        A float32 scalar.

    >>> losses, weights = tf.constant([[1.0, 3.0], [5.0, 5.0]]), tf.constant([[1.0, 1.0], [0.0, 0.0]])
    >>> float(mean_of_lists(losses, weights=weights))
    2.0
    """
    total = tf.reduce_sum(weights, -1)
    of_lists = tf.math.divide_no_nan(tf.reduce_sum(losses * weights, -1), total)
    return mean(of_lists, where=total > 0.0)
