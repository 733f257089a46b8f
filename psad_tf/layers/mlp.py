"""A stack of dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from psad_tf.layers.dropout import SeededDropout


@tf.keras.utils.register_keras_serializable("psad_tf")
class MLP(tf.keras.layers.Layer):
    """Dense layers with ReLU and dropout between, linear at the end.

    x -> relu(x W_1 + b_1) -> ... -> x W_n + b_n.

    Args:
        dims: Widths of the layers, the last one linear.
        dropout_rate: Share of hidden values dropped in training.
        **kwargs: Of `tf.keras.layers.Layer`; the name also tells its dropout from others'.
    """

    def __init__(self, dims: Sequence[int], dropout_rate: float = 0.0, **kwargs: object) -> None:
        if not dims or min(dims) < 1:
            raise ValueError(f"dims: must be positive widths, one at least, got {tuple(dims)}")
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        self.dropout_rate = dropout_rate
        self.hidden = [
            tf.keras.layers.Dense(dim, activation="relu", name=f"hidden_{index}")
            for index, dim in enumerate(self.dims[:-1])
        ]
        self.out = tf.keras.layers.Dense(self.dims[-1], name="out")
        self.drops = [
            SeededDropout(dropout_rate, f"{self.name}/{index}") for index in range(len(self.hidden))
        ]

    def call(self, inputs: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Maps `inputs` [..., D] to [..., dims[-1]]; `seed` int32 [2] turns dropout on."""
        for dense, drop in zip(self.hidden, self.drops, strict=True):
            inputs = drop(dense(inputs), seed=seed)
        return self.out(inputs)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "dims": self.dims, "dropout_rate": self.dropout_rate}
