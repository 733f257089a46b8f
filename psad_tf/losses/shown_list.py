"""What a list was worth, learnt from lists as they were shown."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.reduction import mean
from psad_tf.masking import everywhere

_SMALLEST = 1e-6


def shown_order(shown_position: tf.Tensor, slots: int) -> tf.Tensor:
    """The candidate that stood at each slot of the list as it was shown.

    Args:
        shown_position: int32 [batch, n], the slot of each candidate, -1 where it was not shown.
        slots: S, the slots to read.

    Returns:
        int32 [batch, S], -1 where no candidate stood.

    >>> shown_order(tf.constant([[2, -1, 0]]), 3).numpy().tolist()
    [[2, -1, 0]]
    """
    at_slot = shown_position[:, tf.newaxis] == tf.range(slots)[:, tf.newaxis]  # [batch, S, n]
    candidate = tf.argmax(tf.cast(at_slot, tf.int32), -1, output_type=tf.int32)
    return tf.where(tf.reduce_any(at_slot, -1), candidate, -1)


def shown_list_loss(values: tf.Tensor, gains: tf.Tensor, *, where: tf.Tensor | None = None) -> tf.Tensor:
    """The value head's loss: cross-entropy of the value of what stood at each shown slot.

    L = mean over shown slots of -(g_l log v_l + (1 - g_l) log(1 - v_l)); it is least where v_l is the
    expected gain.

    Args:
        values: v, float32 [batch, S] in (0, 1).
        gains: g, float32 [batch, S] in [0, 1], from `gains`.
        where: bool [batch, S], false at slots that showed nothing; None counts all.

    Returns:
        A float32 scalar.

    >>> values, gains = tf.constant([[0.5, 0.9]]), tf.constant([[1.0, 0.0]])
    >>> round(float(shown_list_loss(values, gains, where=tf.constant([[True, False]]))), 4)
    0.6931
    """
    values = tf.clip_by_value(values, _SMALLEST, 1.0 - _SMALLEST)
    losses = -gains * tf.math.log(values) - (1.0 - gains) * tf.math.log1p(-values)
    return mean(losses, where=everywhere(values, where))
