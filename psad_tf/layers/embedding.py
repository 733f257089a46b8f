"""Embedding tables shared by every feature of one vocabulary."""

from __future__ import annotations

import math
from collections.abc import Mapping

import tensorflow as tf

from psad_tf.config import EmbeddingConfig
from psad_tf.features import PADDING_ID, UNKNOWN_ID, CategoricalFeature
from psad_tf.layers.dropout import hashed_uniform


class TableEmbedding(tf.keras.layers.Layer):
    """One row an id: e(i) = E[i], E in R^{size x dim}; id 0 is padding and gives zeros.

    Args:
        size: Number of ids, padding and out-of-vocabulary included.
        dim: Width of the embedding.
        name: Name of the layer.
    """

    def __init__(self, size: int, dim: int, name: str) -> None:
        super().__init__(name=name)
        self.size = size
        self.dim = dim

    def build(self, input_shape: tf.TensorShape) -> None:
        self.table = self.add_weight(
            "embedding_table",
            shape=(self.size, self.dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
        )
        super().build(input_shape)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up int32 `ids` [...] and gives [..., dim]."""
        rows = tf.cast(tf.gather(self.table, ids), self.compute_dtype)
        return rows * tf.cast(ids != 0, rows.dtype)[..., tf.newaxis]


class CompositionalEmbedding(tf.keras.layers.Layer):
    """Two small tables in place of one large one (the quotient-remainder trick).

    e(i) = Q[i div m] * R[i mod m] with m = ceil(sqrt(size)), so every id has an embedding of its own in
    2 sqrt(size) rows. Id 0 is padding and gives zeros.

    Args:
        size: Number of ids, padding and out-of-vocabulary included.
        dim: Width of the embedding.
        name: Name of the layer.

    Reference: Shi et al., "Compositional Embeddings Using Complementary Partitions for Memory-Efficient
    Recommendation Systems", KDD 2020.
    """

    def __init__(self, size: int, dim: int, name: str) -> None:
        super().__init__(name=name)
        self.size = size
        self.dim = dim
        self.modulus = math.isqrt(max(size - 1, 0)) + 1

    def build(self, input_shape: tf.TensorShape) -> None:
        self.quotients = self.add_weight(
            "embedding_table_quotient",
            shape=((self.size + self.modulus - 1) // self.modulus, self.dim),
            initializer=tf.keras.initializers.RandomNormal(mean=1.0, stddev=0.05),
        )
        self.remainders = self.add_weight(
            "embedding_table_remainder",
            shape=(self.modulus, self.dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
        )
        super().build(input_shape)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up int32 `ids` [...] and gives [..., dim]."""
        rows = tf.gather(self.quotients, ids // self.modulus) * tf.gather(self.remainders, ids % self.modulus)
        rows = tf.cast(rows, self.compute_dtype)
        return rows * tf.cast(ids != 0, rows.dtype)[..., tf.newaxis]


class FeatureEmbedding(tf.keras.layers.Layer):
    """Embeds groups of categorical features from one table a vocabulary.

    A feature of several values is the mean of its values' embeddings, padding left out.

    Args:
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        dim: d, width of every embedding.
        config: Kind of tables, and the shares of embeddings dropped and of values taken for unknown in
            training.
    """

    def __init__(self, vocabulary_sizes: Mapping[str, int], dim: int, config: EmbeddingConfig) -> None:
        super().__init__(name="embeddings")
        self.dim = dim
        self.tables: dict[str, tf.keras.layers.Layer] = {}
        for vocabulary, size in sorted(vocabulary_sizes.items()):
            compositional = config.kind == "compositional" and size > config.compositional_above
            kind = CompositionalEmbedding if compositional else TableEmbedding
            self.tables[vocabulary] = kind(size, dim, name=vocabulary)
        self.rate = config.dropout_rate
        self.unknown_rate = config.unknown_rate

    def call(
        self, ids: tf.Tensor, feature: CategoricalFeature, seed: tf.Tensor | None = None, label: str = ""
    ) -> tf.Tensor:
        """Embeds one feature.

        Args:
            ids: int32 [..., width].
            feature: Whose ids they are.
            seed: int32 [2]; with it, some values are taken for unknown ones, so that the unknown row is
                trained, and whole embeddings are dropped (a feature seems to be missing), so that no model
                comes to lean on the ids alone.
            label: Tells this use of the feature's table from others, for the dropout.

        Returns:
            [..., dim].
        """
        if seed is not None and self.unknown_rate > 0.0:
            draw = hashed_uniform(tf.shape(ids), seed, f"unknown/{label}{feature.name}")
            ids = tf.where((draw < self.unknown_rate) & (ids != PADDING_ID), UNKNOWN_ID, ids)
        rows = self.tables[feature.vocabulary](ids)  # [..., width, dim]
        if feature.width == 1:
            rows = tf.squeeze(rows, -2)
        else:
            count = tf.reduce_sum(tf.cast(ids != 0, rows.dtype), -1, keepdims=True)
            rows = tf.reduce_sum(rows, -2) / tf.maximum(count, 1.0)
        if seed is None or self.rate == 0.0:
            return rows
        draw = hashed_uniform(tf.shape(rows)[:-1], seed, f"embedding/{label}{feature.name}")
        return rows * tf.cast(draw >= self.rate, rows.dtype)[..., tf.newaxis]
