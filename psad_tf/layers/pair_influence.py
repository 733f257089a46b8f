"""How the items placed before change what a candidate is worth."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class PairFactors(NamedTuple):
    """Both sides of the influence, computed once for a set of candidates.

    Attributes:
        sources: What a candidate does to later ones, a vector per head.
        targets: What a candidate takes from earlier ones, a vector per head.
    """

    sources: tf.Tensor
    targets: tf.Tensor


@tf.keras.utils.register_keras_serializable("psad_tf")
class PairInfluence(tf.keras.layers.Layer):
    """The pair term: what the items placed before add to the logit of a candidate's value.

    With heads c and J the items placed before,

        u_i^c  = (sum_{j in J} a_j^c) . b_i^c / sqrt(head_dim)
        pair_i = w . (relu(W u_i + b0) - relu(b0)) + w' . u_i             (0 where nothing is placed)

    The bilinear sums count (items of the candidate's kind, say); the small network after them saturates
    (one sauce is enough after pasta). a and b are linear in the candidate and computed once for a set; the
    only state of a list is the sum of a, [batch, num_heads, head_dim], so placing an item costs O(1) and
    valuing the candidates O(n).

    Args:
        num_heads: Number of heads c.
        head_dim: Width of a_j^c and b_i^c.
        hidden_dim: Width of the network after the sums.
        **kwargs: Of `tf.keras.layers.Layer`.

    Example:
        >>> layer = PairInfluence(num_heads=2, head_dim=4)
        >>> factors = layer.factors(tf.random.normal([1, 3, 8]))
        >>> nothing_placed = tf.zeros([1, 1, 2, 4])
        >>> layer(nothing_placed, factors.targets).numpy().tolist()
        [[[0.0, 0.0, 0.0]]]
    """

    def __init__(self, num_heads: int = 8, head_dim: int = 8, hidden_dim: int = 16, **kwargs: object) -> None:
        for name, value in (("num_heads", num_heads), ("head_dim", head_dim), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.hidden_dim = hidden_dim
        self.source = tf.keras.layers.Dense(num_heads * head_dim, use_bias=False, name="source")
        self.target = tf.keras.layers.Dense(num_heads * head_dim, use_bias=False, name="target")
        self.hidden = tf.keras.layers.Dense(hidden_dim, activation="relu", name="hidden")
        self.out = tf.keras.layers.Dense(1, use_bias=False, name="out")
        self.linear = tf.keras.layers.Dense(1, use_bias=False, name="linear")

    def factors(self, items: tf.Tensor) -> PairFactors:
        """a and b of candidates [batch, n, d]: [batch, n, num_heads, head_dim] each."""
        shape = tf.concat([tf.shape(items)[:-1], [self.num_heads, self.head_dim]], 0)
        return PairFactors(tf.reshape(self.source(items), shape), tf.reshape(self.target(items), shape))

    def at(self, factors: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """One side (a or b) of the candidates in `order` int32 [batch, slots], zeros where it is -1."""
        rows = tf.gather(factors, tf.maximum(order, 0), batch_dims=1)
        return rows * tf.cast(order >= 0, rows.dtype)[..., tf.newaxis, tf.newaxis]

    def along(self, factors: PairFactors, order: tf.Tensor) -> tf.Tensor:
        """The pair term of the item at each slot of a list, given all that stand before it.

        Args:
            factors: From `factors`.
            order: int32 [batch, slots], the candidate at each slot, -1 where empty.

        Returns:
            [batch, slots].
        """
        placed = tf.cumsum(self.at(factors.sources, order), 1, exclusive=True)
        return self._logits(tf.reduce_sum(placed * self.at(factors.targets, order), -1))

    def call(self, placed: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """The pair term of every candidate after each of some partial lists.

        Args:
            placed: The sum of a over the items placed, [batch, slots, num_heads, head_dim].
            targets: b, [batch, n, num_heads, head_dim].

        Returns:
            [batch, slots, n].
        """
        return self._logits(tf.einsum("bshd,bnhd->bsnh", placed, targets))

    def _logits(self, products: tf.Tensor) -> tf.Tensor:
        sums = products * self.head_dim**-0.5  # [..., num_heads]
        hidden = self.hidden(sums) - self.hidden(tf.zeros_like(sums[:1]))
        return (self.out(hidden) + self.linear(sums))[..., 0]

    def get_config(self) -> dict[str, object]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "hidden_dim": self.hidden_dim,
        }
