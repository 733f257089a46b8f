"""SetRank: a permutation-equivariant scorer of the candidate set."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.baselines.base import Baseline
from psad_tf.config import TrainConfig
from psad_tf.features import FeatureDeclaration
from psad_tf.layers.attention import MultiHeadAttention
from psad_tf.layers.mlp import MLP

INDUCING_POINTS = 20


class SetRank(Baseline):
    """Induced multi-head self-attention blocks over the candidates, without positions.

    MAB(X, Y) = LN(H + FFN(H)), H = LN(X + MHA(X, Y));  block(X) = MAB(X, MAB(I, X)), I learned
    inducing points;  score_i = MLP(block(... block(W x)))_i.

    Cost grows with n times the number of inducing points, not with n squared.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration; `model.teacher` has layers, heads and feed-forward width.

    Reference: Pang et al., "SetRank: Learning a Permutation-Invariant Ranking Model for Information
    Retrieval", SIGIR 2020 (its IMSAB variant).
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: TrainConfig
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config, "setrank")
        model = config.model
        self.candidate = tf.keras.layers.Dense(model.embedding_dim, name="candidate")
        self.blocks = [
            _InducedBlock(config, f"block_{index}") for index in range(max(1, model.teacher.encoder_layers))
        ]
        self.score = MLP((model.embedding_dim, 1), model.dropout_rate, name="score")

    def scores(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        states = self.candidate(self.candidate_inputs(encoded, seed=seed))
        for block in self.blocks:
            states = block(states, encoded["mask"], seed=seed)
        return self.score(states, seed=seed)[..., 0]


class _InducedBlock(tf.keras.layers.Layer):
    """MAB(X, MAB(I, X))."""

    def __init__(self, config: TrainConfig, name: str) -> None:
        super().__init__(name=name)
        self.dim = config.model.embedding_dim
        self.gather = _AttentionBlock(config, f"{name}_gather")
        self.spread = _AttentionBlock(config, f"{name}_spread")

    def build(self, input_shape: object) -> None:
        self.points = self.add_weight(
            "inducing_points",
            shape=(INDUCING_POINTS, self.dim),
            initializer=tf.keras.initializers.GlorotUniform(),
        )
        super().build(input_shape)

    def call(self, items: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        batch = tf.shape(items)[0]
        points = tf.repeat(self.points[tf.newaxis], batch, axis=0)  # [batch, points, d]
        summary = self.gather(points, items, mask, seed=seed)
        return self.spread(items, summary, tf.ones([batch, INDUCING_POINTS], tf.bool), seed=seed)


class _AttentionBlock(tf.keras.layers.Layer):
    """MAB(X, Y)."""

    def __init__(self, config: TrainConfig, name: str) -> None:
        super().__init__(name=name)
        model, sizes = config.model, config.model.teacher
        self.attention = MultiHeadAttention(model.embedding_dim, sizes.num_heads, name="attention")
        self.feed_forward = MLP(
            (sizes.feed_forward_dim, model.embedding_dim), model.dropout_rate, name=f"{name}_feed_forward"
        )
        self.attention_norm = tf.keras.layers.LayerNormalization(name="attention_norm")
        self.feed_forward_norm = tf.keras.layers.LayerNormalization(name="feed_forward_norm")

    def call(
        self, queries: tf.Tensor, sequence: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        memory = self.attention.project(sequence)
        attended = self.attention(queries, memory, mask[:, tf.newaxis, tf.newaxis, :])
        states = self.attention_norm(queries + attended)
        return self.feed_forward_norm(states + self.feed_forward(states, seed=seed))
