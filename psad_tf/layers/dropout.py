"""Dropout whose randomness is an argument, so that a training step is a function of its inputs."""

from __future__ import annotations

import zlib

import tensorflow as tf


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
        salt = zlib.crc32(self.label.encode()) & 0x7FFFFFFF
        own = tf.stack([seed[0] ^ salt, seed[1]])
        uniform = tf.random.stateless_uniform(tf.shape(inputs), own, alg="philox")
        keep = tf.cast(uniform >= self.rate, inputs.dtype)
        return inputs * keep / tf.cast(1.0 - self.rate, inputs.dtype)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "rate": self.rate, "label": self.label}
