"""Attention with explicit masks, and with keys and values that can be cached between decoding steps."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from psad_tf.layers.dropout import SeededDropout
from psad_tf.layers.mlp import MLP
from psad_tf.layers.slots import put
from psad_tf.masking import masked_softmax


def block_causal_mask(slots: int, block_size: int) -> tf.Tensor:
    """Which slots a slot may attend to: those of its own block and of the blocks before it.

    M[l, m] = 1 iff m div K <= l div K.

    Args:
        slots: L.
        block_size: K.

    Returns:
        bool [L, L].

    >>> tf.cast(block_causal_mask(4, 2), tf.int32).numpy().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    block = tf.range(slots) // block_size
    return tf.expand_dims(block, 0) <= tf.expand_dims(block, 1)


class KeyValue(NamedTuple):
    """Projected keys and values, [batch, num_heads, length, head_dim] each."""

    keys: tf.Tensor
    values: tf.Tensor


def _length(sequence: tf.Tensor) -> int | tf.Tensor:
    """Of [batch, length, ...]; a number, and no operation, where it is known as a graph is built."""
    return sequence.shape[1] or tf.shape(sequence)[1]


@tf.keras.utils.register_keras_serializable("psad_tf")
class MultiHeadAttention(tf.keras.layers.Layer):
    """Scaled dot-product attention in h heads, with the projection of keys and values apart.

    head_j(Q, X) = softmax(Q W_j^Q (X W_j^K)^T / sqrt(d/h)) X W_j^V; the heads are concatenated and
    projected by W^O. `project` gives a sequence's keys and values once; `call` uses them as often as
    wanted, so a decoder computes those of earlier blocks only once.

    Args:
        dim: d, width of inputs and outputs.
        num_heads: h, divides `dim`.
        **kwargs: Of `tf.keras.layers.Layer`.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    Reference: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, **kwargs: object) -> None:
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads: {num_heads} does not divide dim {dim}")
        super().__init__(**kwargs)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.query = tf.keras.layers.Dense(dim, name="query")
        self.key = tf.keras.layers.Dense(dim, name="key")
        self.value = tf.keras.layers.Dense(dim, name="value")
        self.out = tf.keras.layers.Dense(dim, name="out")

    def _split(self, inputs: tf.Tensor) -> tf.Tensor:
        inputs = tf.reshape(inputs, [-1, _length(inputs), self.num_heads, self.head_dim])
        return tf.transpose(inputs, [0, 2, 1, 3])

    def project(self, sequence: tf.Tensor) -> KeyValue:
        """Keys and values of `sequence` [batch, length, d]."""
        return KeyValue(self._split(self.key(sequence)), self._split(self.value(sequence)))

    def call(self, queries: tf.Tensor, memory: KeyValue, mask: tf.Tensor) -> tf.Tensor:
        """Attends from `queries` to `memory`.

        Args:
            queries: [batch, q, d].
            memory: Keys and values of length k.
            mask: bool, broadcastable to [batch, heads, q, k]; false entries are not attended to.

        Returns:
            [batch, q, d].
        """
        query = self._split(self.query(queries))  # [batch, heads, q, head_dim]
        logits = tf.matmul(query, memory.keys, transpose_b=True)
        logits = tf.cast(logits, tf.float32) * (self.head_dim**-0.5)
        weights = tf.cast(masked_softmax(logits, mask), query.dtype)  # [batch, heads, q, k]
        heads = tf.transpose(tf.matmul(weights, memory.values), [0, 2, 1, 3])
        return self.out(tf.reshape(heads, [-1, _length(heads), self.dim]))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "dim": self.dim, "num_heads": self.num_heads}


@tf.keras.utils.register_keras_serializable("psad_tf")
class EncoderLayer(tf.keras.layers.Layer):
    """A pre-norm transformer layer over a set: x + MHA(LN(x)), then x + FFN(LN(x)).

    Args:
        dim: d, width.
        num_heads: Attention heads; divides `dim`.
        feed_forward_dim: Inner width of the feed-forward layer.
        dropout_rate: Share of values dropped in training.
        **kwargs: Of `tf.keras.layers.Layer`.
    """

    def __init__(
        self, dim: int, num_heads: int, feed_forward_dim: int, dropout_rate: float = 0.0, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = {
            "dim": dim,
            "num_heads": num_heads,
            "feed_forward_dim": feed_forward_dim,
            "dropout_rate": dropout_rate,
        }
        self.attention = MultiHeadAttention(dim, num_heads, name="attention")
        self.feed_forward = MLP((feed_forward_dim, dim), dropout_rate, name=f"{self.name}_feed_forward")
        self.attention_norm = tf.keras.layers.LayerNormalization(name="attention_norm")
        self.feed_forward_norm = tf.keras.layers.LayerNormalization(name="feed_forward_norm")
        self.drop = SeededDropout(dropout_rate, f"{self.name}/attention")

    def call(self, inputs: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Encodes `inputs` [batch, n, d] under `mask` bool [batch, n]; gives [batch, n, d]."""
        normed = self.attention_norm(inputs)
        memory = self.attention.project(normed)
        attended = self.attention(normed, memory, mask[:, tf.newaxis, tf.newaxis, :])
        inputs = inputs + self.drop(attended, seed=seed)
        return inputs + self.feed_forward(self.feed_forward_norm(inputs), seed=seed)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), **self.sizes}


@tf.keras.utils.register_keras_serializable("psad_tf")
class DecoderLayer(tf.keras.layers.Layer):
    """A pre-norm transformer decoder layer over slots, whose past is a cache of keys and values.

    x + SelfAttention(LN(x)), then x + CrossAttention(LN(x), memory), then x + FFN(LN(x)).

    Args:
        dim: d, width.
        num_heads: Attention heads; divides `dim`.
        feed_forward_dim: Inner width of the feed-forward layer.
        dropout_rate: Share of values dropped in training.
        **kwargs: Of `tf.keras.layers.Layer`.
    """

    def __init__(
        self, dim: int, num_heads: int, feed_forward_dim: int, dropout_rate: float = 0.0, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = {
            "dim": dim,
            "num_heads": num_heads,
            "feed_forward_dim": feed_forward_dim,
            "dropout_rate": dropout_rate,
        }
        self.self_attention = MultiHeadAttention(dim, num_heads, name="self_attention")
        self.cross_attention = MultiHeadAttention(dim, num_heads, name="cross_attention")
        self.feed_forward = MLP((feed_forward_dim, dim), dropout_rate, name=f"{self.name}_feed_forward")
        self.self_norm = tf.keras.layers.LayerNormalization(name="self_norm")
        self.cross_norm = tf.keras.layers.LayerNormalization(name="cross_norm")
        self.feed_forward_norm = tf.keras.layers.LayerNormalization(name="feed_forward_norm")
        self.self_drop = SeededDropout(dropout_rate, f"{self.name}/self")
        self.cross_drop = SeededDropout(dropout_rate, f"{self.name}/cross")

    def call(
        self,
        inputs: tf.Tensor,
        past: KeyValue | None,
        self_mask: tf.Tensor,
        memory: KeyValue,
        memory_mask: tf.Tensor,
        start: int | tf.Tensor = 0,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, KeyValue]:
        """Decodes some slots, given the cache of the slots before them.

        Args:
            inputs: [batch, s, d], the slots to compute.
            past: Keys and values of L slots, known up to `start`; None: these slots are all, L = s.
            self_mask: bool, broadcastable to [batch, s, L], which slots each may attend to.
            memory: Keys and values of the encoded candidates, from `cross_attention.project`.
            memory_mask: bool [batch, n].
            start: The first of the slots, an int32 scalar.
            seed: int32 [2], turns dropout on.

        Returns:
            The slots' outputs [batch, s, d], and the cache with these slots in it.
        """
        normed = self.self_norm(inputs)
        cache = self.self_attention.project(normed)
        if past is not None:
            cache = KeyValue(*(put(*both, start, axis=2) for both in zip(past, cache, strict=True)))
        attended = self.self_attention(normed, cache, tf.expand_dims(self_mask, 1))
        inputs = inputs + self.self_drop(attended, seed=seed)
        crossed = self.cross_attention(
            self.cross_norm(inputs), memory, memory_mask[:, tf.newaxis, tf.newaxis, :]
        )
        inputs = inputs + self.cross_drop(crossed, seed=seed)
        return inputs + self.feed_forward(self.feed_forward_norm(inputs), seed=seed), cache

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), **self.sizes}
