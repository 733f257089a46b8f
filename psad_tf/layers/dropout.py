"""Randomness that is an argument, so that a training step is a function of its inputs."""

from __future__ import annotations

import zlib

import numpy as np
import tensorflow as tf

_SEED_FACTORS = np.array([0x9E3779B1, 0x85EBCA77], np.uint32)


def hashed_uniform(shape: tf.Tensor, seed: tf.Tensor, label: str) -> tf.Tensor:
    """Numbers in [0, 1) that depend on seed, label and place alone.

    u_i = h(h(i) xor (p_0 s_0 + p_1 s_1 + crc32(label))) / 2^32, h a 32-bit integer hash (two
    xor-shift-multiply rounds), p two odd constants. TensorFlow's stateless generators give other numbers
    under XLA than outside it; integer arithmetic gives the same everywhere, so a compiled step can be
    checked against a plain one.

    Under `tf.distribute` a replica counts places from where the replica before it ended, so replicas
    with parts of a batch draw what one replica with the whole batch would.

    Args:
        shape: int32 [rank], the batch first.
        seed: int32 [2].
        label: Tells one use of a seed from another.

    Returns:
        float32 of `shape`.

    Reference: the hash is "lowbias32" of C. Wellons' hash prospector.
    """
    size = tf.reduce_prod(shape)
    context = tf.distribute.get_replica_context()
    first = 0 if context is None else context.replica_id_in_sync_group * size
    label_hash = tf.constant(zlib.crc32(label.encode()), tf.uint32)
    return tf.reshape(_drawn(tf.range(size) + first, seed, label_hash), shape)


# Traced once: a train step has some twenty layers that draw, of forty operations each.
@tf.function(
    input_signature=[
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([2], tf.int32),
        tf.TensorSpec([], tf.uint32),
    ],
    autograph=False,
)
def _drawn(place: tf.Tensor, seed: tf.Tensor, label_hash: tf.Tensor) -> tf.Tensor:
    state = tf.reduce_sum(tf.bitcast(seed, tf.uint32) * _SEED_FACTORS) + label_hash
    bits = _hash32(tf.bitwise.bitwise_xor(_hash32(tf.cast(place, tf.uint32)), state))
    top = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32)  # 24 bits: exact
    return tf.cast(top, tf.float32) * 2.0**-24


def _hash32(x: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        x = x * tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(15, tf.uint32)))


class SeededDropout(tf.keras.layers.Layer):
    """Dropout drawn from a seed that is passed in, not from hidden state.

    y = x * m / (1 - rate), m ~ Bernoulli(1 - rate) elementwise. The mask is a pure function of the seed
    and the layer's label: the same step with the same seed drops the same values, eagerly, in a graph,
    under XLA, and after a restart from a checkpoint.

    Args:
        rate: Share of values dropped, in [0, 1).
        label: Makes two layers with the same seed drop different values.
    """

    def __init__(self, rate: float, label: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.label = label

    def call(self, inputs: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Drops values of `inputs` (any shape) by `seed` (int32 [2]); None passes them all."""
        if seed is None or self.rate == 0.0:
            return inputs
        keep = tf.cast(hashed_uniform(tf.shape(inputs), seed, self.label) >= self.rate, inputs.dtype)
        return inputs * keep / tf.cast(1.0 - self.rate, inputs.dtype)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "rate": self.rate, "label": self.label}
