"""The student: a light scorer over what the User Profile Network gives; with it, all that is exported."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.config import ModelConfig
from psad_tf.features import INITIAL_RANK, FeatureDeclaration
from psad_tf.layers.attention import LARGE_NEGATIVE
from psad_tf.layers.mlp import MLP
from psad_tf.layers.user_profile_network import UserProfile, UserProfileNetwork


class StudentScorer(tf.keras.layers.Layer):
    """Scores each candidate in one pass, linear in the length of the list.

    s_i = MLP([c_i + pos(rank_i) ; f_i ; z ; z * c_i ; c_i - mean_j c_j ; max_j c_j - c_i])

    with c_i the personalized candidate, f_i the features it was made of, z the intent, pos the
    personalized position encoding at the candidate's initial rank. The list context (the last two) is
    O(N): no attention among candidates. The probability is p_i = sigmoid(softplus(a) s_i + b(z)):
    calibrated a user at a time, and always in the order of the scores.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(name="student_scorer")
        self.config = config.student
        self.score = MLP((*config.student.hidden_dims, 1), config.dropout, name="score")
        self.calibration = tf.keras.layers.Dense(1, name="calibration")

    def build(self, input_shape: object) -> None:
        self.calibration_scale = self.add_weight("calibration_scale", shape=(), initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        profile: UserProfile,
        mask: tf.Tensor,
        initial_rank: tf.Tensor,
        seed: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Scores a batch.

        Args:
            profile: From the User Profile Network.
            mask: bool [batch, n], false at padding.
            initial_rank: int32 [batch, n], 0 is the initial ranker's best.
            seed: int32 [2], turns dropout on.

        Returns:
            `scores` float32 [batch, n], -1e9 at padding, and `probabilities` float32 [batch, n] of a
            label of 1 or more, 0 at padding.
        """
        candidates, intent = profile.candidates, profile.intent
        last = profile.positions.shape[1] - 1
        ranks = tf.clip_by_value(initial_rank, 0, last)
        positions = tf.gather(profile.positions, ranks, batch_dims=1)  # [batch, n, d]
        intents = tf.broadcast_to(intent[:, tf.newaxis], tf.shape(candidates))
        parts = [candidates + positions, profile.features, intents, intents * candidates]
        if self.config.list_context:
            present = tf.cast(mask, candidates.dtype)[..., tf.newaxis]
            count = tf.maximum(tf.reduce_sum(present, 1, keepdims=True), 1.0)
            mean = tf.reduce_sum(candidates * present, 1, keepdims=True) / count
            lowest = tf.constant(candidates.dtype.min, candidates.dtype)
            largest = tf.reduce_max(tf.where(present > 0, candidates, lowest), 1, keepdims=True)
            largest = tf.where(tf.reduce_any(mask, -1)[:, tf.newaxis, tf.newaxis], largest, 0.0)
            parts += [candidates - mean, largest - candidates]
        scores = tf.cast(self.score(tf.concat(parts, -1), seed=seed)[..., 0], tf.float32)
        offset = tf.cast(self.calibration(intent), tf.float32)
        scale = tf.nn.softplus(tf.cast(self.calibration_scale, tf.float32))
        probabilities = tf.where(mask, tf.sigmoid(scale * scores + offset), 0.0)
        return {"scores": tf.where(mask, scores, LARGE_NEGATIVE), "probabilities": probabilities}


class Reranker(tf.keras.Model):
    """User Profile Network and student: what training exports and serving runs.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: The model's configuration.
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: ModelConfig
    ) -> None:
        super().__init__(name="reranker")
        positions = max(declaration.max_candidates, config.teacher.slots)
        self.user_profile_network = UserProfileNetwork(declaration, vocabulary_sizes, config, positions)
        self.student = StudentScorer(config)

    def call(
        self, encoded: Mapping[str, tf.Tensor], training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Scores encoded lists.

        Args:
            encoded: What `FeatureEncoder` gives, [batch, n, ...]; any batch and list size.
            training: Only for Keras; dropout is on when `seed` is given.
            seed: int32 [2].

        Returns:
            `scores` and `probabilities`, float32 [batch, n].
        """
        profile = self.user_profile_network(encoded, seed=seed)
        return self.score(profile, encoded, seed)

    def score(
        self, profile: UserProfile, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The student's half of `call`, for a profile that is already there."""
        return self.student(profile, encoded["mask"], encoded[INITIAL_RANK], seed=seed)
