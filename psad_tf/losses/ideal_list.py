"""The list that labels alone would make, slot by slot: what the policy head imitates."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.discount import discount
from psad_tf.masking import everywhere


def ideal_order(
    labels: tf.Tensor, ties: tf.Tensor, slots: int, *, where: tf.Tensor | None = None
) -> tf.Tensor:
    """The ideal list: labels descending, equal labels by `ties` descending.

    Args:
        labels: float32 [batch, n].
        ties: float32 [batch, n] in [0, 1).
        slots: L; beyond n they are empty.
        where: bool [batch, n], the candidates that count; None counts all.

    Returns:
        int32 [batch, L], the candidate at each slot; -1 past the end of a shorter list.

    >>> labels, ties = tf.constant([[0.0, 2.0, 1.0, 1.0]]), tf.constant([[0.0, 0.0, 0.1, 0.2]])
    >>> ideal_order(labels, ties, 3).numpy().tolist()
    [[1, 3, 2]]
    """
    where = everywhere(labels, where)
    keys = tf.where(where, labels + ties, -1.0)
    order = tf.argsort(keys, axis=-1, direction="DESCENDING", stable=True)[:, :slots]
    order = tf.pad(order, [[0, 0], [0, tf.maximum(slots - tf.shape(labels)[1], 0)]])
    length = tf.reduce_sum(tf.cast(where, tf.int32), -1, keepdims=True)
    return tf.where(tf.range(slots) < length, tf.ensure_shape(order, [None, slots]), -1)


def slot_availability(order: tf.Tensor, block_size: int, *, where: tf.Tensor) -> tf.Tensor:
    """Which candidates are unchosen when a slot's block begins.

    A[l, i] = m_i and candidate i is at no slot of a block before l's.

    Args:
        order: int32 [batch, L], -1 for an empty slot.
        block_size: K.
        where: bool [batch, n], the candidates that count.

    Returns:
        bool [batch, L, n].
    """
    slots = order.shape[1]
    at_slot = tf.one_hot(order, tf.shape(where)[1])  # [batch, L, n]
    taken = tf.cumsum(at_slot, axis=1, exclusive=True)  # before slot l
    block_start = tf.range(slots) // block_size * block_size
    return where[:, tf.newaxis] & (tf.gather(taken, block_start, axis=1) < 0.5)


def slot_targets(labels: tf.Tensor, order: tf.Tensor, *, where: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What each slot should predict, and how much the slot tells.

    t[l, i] = 1 / |S_l| for i in S_l, S_l the available candidates whose label is that of the ideal
    list's candidate at l: equals are interchangeable, so that tie-breaking is not learnt.

    A slot weighs its DCG discount, or 0 where it tells nothing about what to place: every available
    candidate has the same label, or the ideal list has run out of relevant ones. A slot of the latter
    kind would learn to hold what is surest to be irrelevant, and in a block that also has slots for
    relevant candidates it would place the worst candidate ahead of doubtful ones.

    Args:
        labels: float32 [batch, n].
        order: int32 [batch, L], the ideal list, -1 past its end.
        where: bool [batch, L, n], the available candidates, from `slot_availability`.

    Returns:
        Targets float32 [batch, L, n], rows summing to 1 (0 past the end), and weights float32 [batch, L].

    >>> labels, where = tf.constant([[1.0, 1.0, 0.0]]), tf.constant([[True] * 3])
    >>> order = tf.constant([[1, 0, 2]])
    >>> targets, weights = slot_targets(labels, order, where=slot_availability(order, 1, where=where))
    >>> targets.numpy().tolist()
    [[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]
    >>> [round(float(each), 4) for each in weights[0]]
    [1.0, 0.6309, 0.0]
    """
    filled = order >= 0
    grades = tf.gather(labels, tf.maximum(order, 0), batch_dims=1)  # [batch, L]
    equals = where & (labels[:, tf.newaxis] == grades[..., tf.newaxis]) & filled[..., tf.newaxis]
    count = tf.reduce_sum(tf.cast(equals, tf.float32), -1)
    targets = tf.cast(equals, tf.float32) / tf.maximum(count, 1.0)[..., tf.newaxis]
    choice = count < tf.reduce_sum(tf.cast(where, tf.float32), -1)
    informative = filled & choice & (grades > 0.0)
    return targets, tf.cast(informative, tf.float32) * discount(order.shape[1])
