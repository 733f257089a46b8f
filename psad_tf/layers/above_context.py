"""What stands above a candidate, softly, without generating a list."""

from __future__ import annotations

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("psad_tf")
class AboveContext(tf.keras.layers.Layer):
    """For each candidate, how much of each kind stands above it.

    With first scores r, candidates x and heads c,

        context_i^c = sum_{j != i} sigmoid(a (r_j - r_i)) sigmoid(q_i^c . k_j^c / sqrt(head_dim))

    over the candidates of the list: the first factor is how surely j stands above i, the second how much j
    matters to i. The second does not depend on the scores: `matches` gives it once, and `call` uses it with
    as many score vectors as wanted. O(n^2 num_heads head_dim).

    Args:
        num_heads: Number of heads c.
        head_dim: Width of q_i^c and k_j^c.
        **kwargs: Of `tf.keras.layers.Layer`.

    Example:
        >>> layer = AboveContext(num_heads=3, head_dim=4)
        >>> matches = layer.matches(tf.random.normal([1, 5, 8]), tf.constant([[True] * 5]))
        >>> layer(tf.zeros([1, 5]), matches).shape
        TensorShape([1, 5, 3])
    """

    def __init__(self, num_heads: int = 8, head_dim: int = 4, **kwargs: object) -> None:
        for name, value in (("num_heads", num_heads), ("head_dim", head_dim)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.query = tf.keras.layers.Dense(num_heads * head_dim, name="query")
        self.key = tf.keras.layers.Dense(num_heads * head_dim, name="key")

    def build(self, input_shape: object) -> None:
        self.sharpness = self.add_weight("sharpness_scale", shape=(), initializer="ones")
        super().build(input_shape)

    def matches(self, items: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """How much j matters to i, [batch, num_heads, n, n]; 0 at j = i and at padding.

        Args:
            items: [batch, n, d].
            mask: bool [batch, n], false at padding.
        """
        queries, keys = self._split(self.query(items)), self._split(self.key(items))
        logits = tf.matmul(queries, keys, transpose_b=True) * self.head_dim**-0.5
        n = tf.shape(mask)[1]
        others = mask[:, tf.newaxis] & ~tf.eye(n, dtype=tf.bool)  # [batch, n, n]
        return tf.sigmoid(logits) * tf.cast(others, logits.dtype)[:, tf.newaxis]

    def call(self, scores: tf.Tensor, matches: tf.Tensor) -> tf.Tensor:
        """The context [batch, n, num_heads] of `scores` [batch, n]."""
        differences = scores[:, tf.newaxis] - scores[:, :, tf.newaxis]  # [batch, i, j]: r_j - r_i
        above = tf.sigmoid(tf.nn.softplus(tf.cast(self.sharpness, scores.dtype)) * differences)
        return tf.einsum("bij,bhij->bih", tf.cast(above, matches.dtype), matches)

    def _split(self, inputs: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([tf.shape(inputs)[:-1], [self.num_heads, self.head_dim]], 0)
        return tf.transpose(tf.reshape(inputs, shape), [0, 2, 1, 3])

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "num_heads": self.num_heads, "head_dim": self.head_dim}
