"""User Profile Network and student as the serving graph has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from psad_tf.data.encoder import FeatureEncoder
from psad_tf.export.served_features import ServedEncoder
from psad_tf.export.served_layers import ServedLayers
from psad_tf.export.served_profile import served_profile
from psad_tf.export.served_student import served_scores
from psad_tf.models.student import Reranker


class Scored(NamedTuple):
    """A scored request, [b, n] each.

    Attributes:
        present: bool, false at padding.
        mask: bool, false at padding and at candidates that are blocked.
        scores: float32, -1e9 where the mask is false.
        probabilities: float32, 0 there.
    """

    present: tf.Tensor
    mask: tf.Tensor
    scores: tf.Tensor
    probabilities: tf.Tensor


class ServedReranker(tf.Module):
    """Scores requests by a graph of few operations.

    Args:
        encoder: Of the run.
        reranker: Of the run.
        layers: Its weights.
        vocabulary_dir: Where the lookup tables' files are written.
    """

    def __init__(
        self, encoder: FeatureEncoder, reranker: Reranker, layers: ServedLayers, vocabulary_dir: str
    ) -> None:
        super().__init__(name="served_reranker")
        self.encoder = ServedEncoder(encoder, vocabulary_dir)
        self._layers = layers

        def score(raw: Mapping[str, tf.Tensor], blocked: tf.Tensor | None) -> Scored:
            network, student = reranker.user_profile_network, reranker.student
            inputs = self.encoder(raw, layers, network.embeddings)
            mask = inputs.present if blocked is None else inputs.present & ~blocked
            profile = served_profile(network, layers, inputs, mask)
            scored = served_scores(student, network.candidate.out, layers, profile, inputs, mask)
            return Scored(inputs.present, mask, scored["scores"], scored["probabilities"])

        self._score = score  # keeps the Keras model out of what is saved

    def __call__(self, raw: Mapping[str, tf.Tensor], blocked: tf.Tensor | None) -> Scored:
        """Scores a request.

        Args:
            raw: By name on the wire, as `serving_default` has them.
            blocked: bool [b, n], or None.
        """
        return self._score(raw, blocked)
