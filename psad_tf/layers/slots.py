"""Writing into the slots of a list whose place is known only as the graph runs."""

from __future__ import annotations

import tensorflow as tf


def put(whole: tf.Tensor, part: tf.Tensor, start: int | tf.Tensor, axis: int = 1) -> tf.Tensor:
    """`whole` with `part` in the places from `start` on; shapes stay known, as XLA wants them.

    Args:
        whole: [..., places, ...].
        part: [..., size, ...] of the same type, `size` known when the graph is built.
        start: The first place to write to, int32 scalar.
        axis: Of the places.

    Returns:
        As `whole`.

    >>> put(tf.constant([[1, 2, 3, 4]]), tf.constant([[8, 9]]), 1).numpy().tolist()
    [[1, 8, 9, 4]]
    """
    size = part.shape[axis]
    index = tf.range(whole.shape[axis]) - start
    inside = (index >= 0) & (index < size)
    rows = part if size == 1 else tf.gather(part, tf.clip_by_value(index, 0, size - 1), axis=axis)
    return tf.where(tf.reshape(inside, [-1] + [1] * (whole.shape.rank - axis - 1)), rows, whole)
