"""What stands above a candidate, softly, without generating a list."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.layers.pair_influence import PairFactors


@tf.keras.utils.register_keras_serializable("psad_tf")
class AboveContext(tf.keras.layers.Layer):
    """For each candidate, how much of each kind stands above it: the teacher's pair sums, softly placed.

    With scores s, candidates x and heads c,

        above_ij    = sigmoid(a (s_j - s_i))                     how surely j stands above i, 0 at j = i
        context_i^c = (sum_j above_ij k_j^c) . q_i^c / sqrt(head_dim)

    with k and q linear in x. They do not depend on the scores: `factors` gives them once, and `call` uses
    them with as many score vectors as wanted. O(n^2 num_heads head_dim), as one matrix product.

    Args:
        num_heads: Number of heads c.
        head_dim: Width of q_i^c and k_j^c.
        **kwargs: Of `tf.keras.layers.Layer`.

    Example:
        >>> layer = AboveContext(num_heads=3, head_dim=4)
        >>> factors = layer.factors(tf.random.normal([1, 5, 8]))
        >>> layer(tf.zeros([1, 5]), factors, tf.constant([[True] * 5])).shape
        TensorShape([1, 5, 3])
    """

    def __init__(self, num_heads: int = 8, head_dim: int = 4, **kwargs: object) -> None:
        for name, value in (("num_heads", num_heads), ("head_dim", head_dim)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.source = tf.keras.layers.Dense(num_heads * head_dim, use_bias=False, name="source")
        self.target = tf.keras.layers.Dense(num_heads * head_dim, use_bias=False, name="target")

    def build(self, input_shape: object) -> None:
        self.sharpness = self.add_weight("sharpness_scale", shape=(), initializer="ones")
        super().build(input_shape)

    def factors(self, items: tf.Tensor) -> PairFactors:
        """k and q of candidates [batch, n, d], heads side by side: [batch, n, num_heads * head_dim] each."""
        return PairFactors(self.source(items), self.target(items))

    def call(self, scores: tf.Tensor, factors: PairFactors, mask: tf.Tensor) -> tf.Tensor:
        """The context of every candidate.

        Args:
            scores: s, [batch, n].
            factors: From `factors`.
            mask: bool [batch, n], false at padding, which stands above nothing.

        Returns:
            [batch, n, num_heads].
        """
        lists, n = tf.unstack(tf.shape(mask))
        differences = tf.expand_dims(scores, 1) - tf.expand_dims(scores, 2)  # [batch, i, j]: s_j - s_i
        above = tf.sigmoid(tf.nn.softplus(tf.cast(self.sharpness, scores.dtype)) * differences)
        sources = factors.sources * tf.expand_dims(tf.cast(mask, above.dtype), 2)
        # A candidate does not stand above itself, where `above` is 1/2.
        sums = tf.matmul(above, sources) - 0.5 * sources  # [batch, n, heads * dim]
        products = tf.reshape(sums * factors.targets, [lists, n, self.num_heads, self.head_dim])
        return tf.reduce_sum(products, -1) * self.head_dim**-0.5

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "num_heads": self.num_heads, "head_dim": self.head_dim}
