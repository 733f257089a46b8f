"""The discount of DCG."""

from __future__ import annotations

import tensorflow as tf


def discount(slots: int) -> tf.Tensor:
    """The DCG discount of each slot, 1 / log2(2 + l), float32 [slots].

    >>> [round(float(each), 4) for each in discount(3)]
    [1.0, 0.6309, 0.5]
    """
    return tf.math.log(2.0) / tf.math.log(2.0 + tf.range(slots, dtype=tf.float32))
