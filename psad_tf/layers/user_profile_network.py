"""The User Profile Network: who the user is, what they want now, and how that changes each candidate."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_recommenders as tfrs

from psad_tf.config import ModelConfig
from psad_tf.features import HISTORY_PREFIX, FeatureDeclaration
from psad_tf.layers.embedding import FeatureEmbedding
from psad_tf.layers.list_context import standardized_in_list
from psad_tf.layers.mlp import MLP
from psad_tf.masking import masked_mean, masked_softmax


class UserProfile(NamedTuple):
    """What the network gives to teacher and student.

    Attributes:
        intent: z, [batch, d].
        candidates: Personalized representation of each candidate, [batch, n, d].
        features: All that it was made of, side by side, [batch, n, width].
        positions: Personalized position encoding, [batch, positions, d].
    """

    intent: tf.Tensor
    candidates: tf.Tensor
    features: tf.Tensor
    positions: tf.Tensor


@tf.keras.utils.register_keras_serializable("psad_tf")
class UserProfileNetwork(tf.keras.layers.Layer):
    """Intent, personalized gates, personalized positions, attention to the history, and crossing.

    With u the user's profile, h_j the history (most recent first), e_i the candidates:

    1. intent: z = MLP([u ; sum_j a_j h_j ; mean of the first s h_j]), a = softmax(u W h_j / sqrt(d));
    2. personalized gate: g_i = 2 sigmoid(MLP([z ; stop_gradient(e_i)])) in (0, 2)^d, and g_i * e_i;
    3. personalized positions: sum_m softmax(z W)_m P_m[l] for bases P_1..P_M; base 0 alone when off;
    4. target attention: t_i = sum_j softmax_j(q_i . k_j / sqrt(d)) h_j;
    5. cross: x_0 (W x_0 + b) + x_0 with x_0 = [u ; g_i * e_i] (DCN-v2);
    6. history match: e_v(i) * mean_j e_v(h_j) for each vocabulary v that candidates and history share;
    7. relative: the dense features standardized within the list (`standardized_in_list`).

    A candidate's features are f_i = [g_i * e_i ; dense_i ; relative_i ; z * g_i * e_i ; match_i ; t_i ;
    cross_i], its representation is c_i = MLP(f_i).

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: The model's configuration.
        positions: Number of positions that have an encoding; later ones share the last.

    Reference: arXiv 2603.07107, User Profile Network; Wang et al., "DCN V2", WWW 2021, for the cross.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration | Mapping[str, Any],
        vocabulary_sizes: Mapping[str, int],
        config: ModelConfig | Mapping[str, Any] | None = None,
        positions: int = 20,
        name: str = "user_profile_network",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        declaration, config = FeatureDeclaration.of(declaration), ModelConfig.of(config)
        self.settings = types.MappingProxyType(
            {
                "declaration": declaration.to_dict(),
                "vocabulary_sizes": dict(vocabulary_sizes),
                "config": dataclasses.asdict(config),
                "positions": positions,
            }
        )
        self.declaration = declaration
        self.config = config.user_profile
        self.dim = dim = config.embedding_dim
        self.position_count = positions
        self.embeddings = FeatureEmbedding(vocabulary_sizes, dim, config.embedding)
        dropout = config.dropout_rate
        self.profile = MLP((dim, dim), dropout, name="profile")
        self.history = MLP((dim, dim), dropout, name="history")
        self.item = tf.keras.layers.Dense(dim, name="item")
        self.pooling_query = tf.keras.layers.Dense(dim, use_bias=False, name="pooling_query")
        self.intent = MLP((2 * dim, dim), dropout, name="intent")
        self.candidate = MLP((dim, dim), dropout, name="candidate")
        if self.config.personalized_gates:
            self.gate = MLP((dim, dim), dropout, name="gate")
        if self.config.personalized_positions:
            self.position_mixture = tf.keras.layers.Dense(self.config.position_bases, name="position_mixture")
        if self.config.target_attention:
            self.target_query = tf.keras.layers.Dense(dim, name="target_query")
            self.target_key = tf.keras.layers.Dense(dim, name="target_key")
        if self.config.cross:
            self.cross = tfrs.layers.dcn.Cross(
                projection_dim=self.config.cross_projection_dim or None, name="cross"
            )

    def build(self, input_shape: object) -> None:
        bases = self.config.position_bases if self.config.personalized_positions else 1
        self.position_bases = self.add_weight(
            "position_bases",
            shape=(bases, self.position_count, self.dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
        )
        super().build(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}

    def call(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> UserProfile:
        """Profiles a batch.

        Args:
            encoded: What `FeatureEncoder` gives: ids int32, dense float32, masks bool.
            seed: int32 [2], turns dropout on.

        Returns:
            The `UserProfile`.
        """
        declaration = self.declaration
        users = [self.embeddings(encoded[f.name], f, seed) for f in declaration.context_categorical]
        user = self.profile(self._joined(users, encoded["context_dense"]), seed=seed)  # [batch, d]
        past = [
            self.embeddings(encoded[HISTORY_PREFIX + f.name], f, seed, HISTORY_PREFIX)
            for f in declaration.history.categorical
        ]
        history = self.history(self._joined(past, encoded["history_dense"]), seed=seed)  # [batch, h, d]
        items = [self.embeddings(encoded[f.name], f, seed) for f in declaration.candidate_categorical]
        item = self.item(tf.concat(items, -1))  # [batch, n, d]
        intent = self.intent(self._interests(user, history, encoded["history_mask"]), seed=seed)
        gated = self._gated(item, intent, seed)
        dense = encoded["candidate_dense"]
        if self.config.relative_features:
            dense = tf.concat([dense, standardized_in_list(dense, encoded["mask"])], -1)
        parts = [self._joined([gated], dense), gated * tf.expand_dims(intent, 1)]
        if self.config.history_match:
            parts += self._history_matches(items, past, encoded["history_mask"])
        if self.config.target_attention:
            parts.append(self._target_interest(item, history, encoded["history_mask"]))
        if self.config.cross:
            users = tf.broadcast_to(tf.expand_dims(user, 1), tf.shape(gated))
            parts.append(self.cross(tf.concat([users, gated], -1)))
        features = tf.concat(parts, -1)
        return UserProfile(intent, self.candidate(features, seed=seed), features, self._positions(intent))

    def _joined(self, embedded: list[tf.Tensor], dense: tf.Tensor) -> tf.Tensor:
        """Embeddings and dense values side by side; dense values of no columns are left out.

        With neither, a column of zeros stands for a user of whom nothing is declared.
        """
        parts = [*embedded, tf.cast(dense, self.compute_dtype)] if dense.shape[-1] else embedded
        return tf.concat(parts, -1) if parts else tf.zeros([*tf.unstack(tf.shape(dense)[:-1]), 1])

    def _interests(self, user: tf.Tensor, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """[u ; long-term interest ; short-term interest], [batch, 3d]."""
        query = tf.expand_dims(self.pooling_query(user), 1)
        logits = tf.matmul(query, history, transpose_b=True)  # [batch, 1, h]
        weights = masked_softmax(tf.cast(logits, tf.float32) * self.dim**-0.5, tf.expand_dims(mask, 1))
        long_term = tf.squeeze(tf.matmul(tf.cast(weights, history.dtype), history), 1)
        recent = self.config.short_term_length
        short_term = masked_mean(history[:, :recent], mask[:, :recent])
        return tf.concat([user, long_term, short_term], -1)

    def _gated(self, item: tf.Tensor, intent: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        if not self.config.personalized_gates:
            return item
        intents = tf.broadcast_to(tf.expand_dims(intent, 1), tf.shape(item))
        return 2.0 * tf.sigmoid(self.gate(tf.concat([intents, tf.stop_gradient(item)], -1), seed=seed)) * item

    def _history_matches(
        self, items: list[tf.Tensor], past: list[tf.Tensor], mask: tf.Tensor
    ) -> list[tf.Tensor]:
        """One [batch, n, d] for each feature of the history whose vocabulary candidates have too."""
        declaration = self.declaration
        of_vocabulary = {
            feature.vocabulary: embedded
            for feature, embedded in zip(declaration.candidate_categorical, items, strict=True)
        }
        return [
            of_vocabulary[feature.vocabulary] * tf.expand_dims(masked_mean(embedded, mask), 1)
            for feature, embedded in zip(declaration.history.categorical, past, strict=True)
            if feature.vocabulary in of_vocabulary
        ]

    def _target_interest(self, item: tf.Tensor, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(self.target_query(item), self.target_key(history), transpose_b=True)
        weights = masked_softmax(tf.cast(logits, tf.float32) * self.dim**-0.5, tf.expand_dims(mask, 1))
        return tf.matmul(tf.cast(weights, history.dtype), history)  # [batch, n, d]

    def _positions(self, intent: tf.Tensor) -> tf.Tensor:
        bases = tf.cast(self.position_bases, self.compute_dtype)
        if not self.config.personalized_positions:
            return tf.broadcast_to(bases, [tf.shape(intent)[0], self.position_count, self.dim])
        mixture = tf.nn.softmax(tf.cast(self.position_mixture(intent), tf.float32))
        return tf.einsum("bm,mpd->bpd", tf.cast(mixture, bases.dtype), bases)
