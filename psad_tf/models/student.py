"""The student: a light scorer over what the User Profile Network gives; with it, all that is exported."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from psad_tf.config import ModelConfig
from psad_tf.features import FeatureDeclaration
from psad_tf.layers.above_context import AboveContext
from psad_tf.layers.attention import EncoderLayer
from psad_tf.layers.list_context import relative_to_list
from psad_tf.layers.mlp import MLP
from psad_tf.layers.pair_influence import PairFactors
from psad_tf.layers.user_profile_network import UserProfile, UserProfileNetwork
from psad_tf.masking import LARGE_NEGATIVE


@tf.keras.utils.register_keras_serializable("psad_tf")
class StudentScorer(tf.keras.layers.Layer):
    """Scores each candidate in one pass that knows what stands above it.

    x_i = relu(W c_i + V z)                                     (V z once per list)
    s_i^0 = w . x_i
    s_i^t = s_i^0 + MLP([x_i ; context_i(s^{t-1}) ; s_i^{t-1}])        for the rounds t = 1 .. T

    with c_i the personalized candidate, z the intent, and `AboveContext` for the context: each round sees
    the order that the round before made. Other contexts, for comparison, have one round:
    `mean_max` [c_i - mean_j c_j ; max_j c_j - c_i], `self_attention` an `EncoderLayer` over x, `none`
    s_i^0 + MLP([x_i ; s_i^0]).

    The probability is p_i = sigmoid(softplus(a) s_i + b(z)): calibrated a user at a time, and always in
    the order of the scores.

    Args:
        config: The model's configuration.
    """

    def __init__(
        self,
        config: ModelConfig | Mapping[str, Any] | None = None,
        name: str = "student_scorer",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        config = ModelConfig.of(config)
        self.settings = types.MappingProxyType({"config": dataclasses.asdict(config)})
        self.config = student = config.student
        width, rate = student.hidden_dims[0], config.dropout_rate
        self.candidate = tf.keras.layers.Dense(width, name="candidate")
        self.intent = tf.keras.layers.Dense(width, use_bias=False, name="intent")
        self.first = tf.keras.layers.Dense(1, name="first")
        self.refine = [
            MLP((*student.hidden_dims[1:], 1), rate, name=f"refine_{index}")
            for index in range(student.rounds if student.context == "above" else 1)
        ]
        if student.context == "above":
            self.above = AboveContext(student.context_heads, student.context_dim, name="above")
        if student.context == "self_attention":
            heads = config.teacher.num_heads
            self.encoder = EncoderLayer(width, heads, 2 * width, rate, name="student_encoder")
        self.calibration = tf.keras.layers.Dense(1, name="calibration")

    def build(self, input_shape: object) -> None:
        self.calibration_scale = self.add_weight("calibration_scale", shape=(), initializer="zeros")
        super().build(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}

    def call(
        self, profile: UserProfile, mask: tf.Tensor, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Scores a batch.

        Args:
            profile: From the User Profile Network.
            mask: bool [batch, n], false at padding.
            seed: int32 [2], turns dropout on.

        Returns:
            `scores` float32 [batch, n], -1e9 at padding, and `probabilities` float32 [batch, n] of a
            label of 1 or more, 0 at padding.
        """
        candidates, intent = profile.candidates, profile.intent
        items = tf.nn.relu(
            self.candidate(candidates) + self.intent(intent)[:, tf.newaxis]
        )  # [batch, n, width]
        first = scores = self.first(items)[..., 0]
        factors = self.above.factors(items) if self.config.context == "above" else None
        for refine in self.refine:
            context = self._context(items, candidates, scores, factors, mask, seed)
            parts = tf.concat([items, *context, scores[..., tf.newaxis]], -1)
            scores = first + refine(parts, seed=seed)[..., 0]
        scores = tf.cast(scores, tf.float32)
        offset = tf.cast(self.calibration(intent), tf.float32)
        scale = tf.nn.softplus(tf.cast(self.calibration_scale, tf.float32))
        probabilities = tf.where(mask, tf.sigmoid(scale * scores + offset), 0.0)
        return {"scores": tf.where(mask, scores, LARGE_NEGATIVE), "probabilities": probabilities}

    def _context(
        self,
        items: tf.Tensor,
        candidates: tf.Tensor,
        scores: tf.Tensor,
        factors: PairFactors | None,
        mask: tf.Tensor,
        seed: tf.Tensor | None,
    ) -> list[tf.Tensor]:
        if self.config.context == "above":
            return [self.above(scores, factors, mask)]
        if self.config.context == "self_attention":
            return [self.encoder(items, mask, seed=seed)]
        if self.config.context == "mean_max":
            return relative_to_list(candidates, mask)
        return []


@tf.keras.utils.register_keras_serializable("psad_tf")
class Reranker(tf.keras.Model):
    """User Profile Network and student: what training exports and serving runs.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: The model's configuration.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration | Mapping[str, Any],
        vocabulary_sizes: Mapping[str, int],
        config: ModelConfig | Mapping[str, Any] | None = None,
        name: str = "reranker",
    ) -> None:
        super().__init__(name=name)
        declaration, config = FeatureDeclaration.of(declaration), ModelConfig.of(config)
        positions = max(declaration.max_candidates, config.teacher.slots)
        self.user_profile_network = UserProfileNetwork(declaration, vocabulary_sizes, config, positions)
        self.student = StudentScorer(config)
        self.stop_gradient = config.student.stop_gradient

    def get_config(self) -> dict[str, Any]:
        network = self.user_profile_network.settings
        return {"name": self.name, **{key: value for key, value in network.items() if key != "positions"}}

    @tf.autograph.experimental.do_not_convert
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
        """The student's half of `call`, for a profile that is already there.

        The profile network learns nothing from it unless `config.student.stop_gradient` is off.
        """
        if self.stop_gradient:
            profile = tf.nest.map_structure(tf.stop_gradient, profile)
        return self.student(profile, encoded["mask"], seed=seed)
