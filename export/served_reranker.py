"""User Profile Network and student as the serving graph has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from psad_tf.data.encoder import FeatureEncoder, chosen
from psad_tf.export.served_features import ServedEncoder
from psad_tf.export.served_layers import ServedLayers
from psad_tf.export.served_profile import served_profile
from psad_tf.export.served_student import served_scores
from psad_tf.masking import LARGE_NEGATIVE
from psad_tf.models.student import Reranker
from psad_tf.serving.contract import PADDING_POSITION


class Ranked(NamedTuple):
    """A request of b lists and n candidates, the m first of each in order.

    Attributes:
        scores: float32 [b, n], -1e9 at padding and at candidates that are blocked.
        probabilities: float32 [b, n], 0 there.
        ranking: int32 [b, m], positions of candidates, best first, the blocked ones last; -1 past a list's
            end.
        shown: int32 [b, m], as `ranking`, but n in place of blocked candidates and of padding.
        length: int32 [b], how many candidates there are, the blocked ones among them.
    """

    scores: tf.Tensor
    probabilities: tf.Tensor
    ranking: tf.Tensor
    shown: tf.Tensor
    length: tf.Tensor


class ServedReranker(tf.Module):
    """Ranks requests by a graph of few operations.

    Args:
        encoder: Of the run.
        reranker: Of the run.
        layers: Its weights.
        vocabulary_dir: Where the lookup tables' files are written.
        top_m: Length of the ranking; 0 gives all candidates.
    """

    def __init__(
        self,
        encoder: FeatureEncoder,
        reranker: Reranker,
        layers: ServedLayers,
        vocabulary_dir: str,
        top_m: int = 0,
    ) -> None:
        super().__init__(name="served_reranker")
        self.encoder = ServedEncoder(encoder, vocabulary_dir)
        self._layers = layers

        def rank(raw: Mapping[str, tf.Tensor], sizes: tf.Tensor, blocked: tf.Tensor | None) -> Ranked:
            network, student = reranker.user_profile_network, reranker.student
            inputs = self.encoder(raw, sizes, layers, network.embeddings)
            mask = inputs.present
            if blocked is not None:
                mask &= ~tf.reshape(tf.cast(blocked, tf.bool), sizes)
            profile = served_profile(network, layers, inputs, mask)
            scored = served_scores(student, network.candidate.out, layers, profile, inputs, mask)
            return _ranked(scored["scores"], scored["probabilities"], inputs.present, mask, top_m)

        self._rank = rank  # keeps the Keras model out of what is saved

    def __call__(self, raw: Mapping[str, tf.Tensor], sizes: tf.Tensor, blocked: tf.Tensor | None) -> Ranked:
        """Ranks a request.

        Args:
            raw: By name on the wire, as `serving_default` has them; candidates [b, n, ...], or one row after
                another, [b n, ...].
            sizes: int32 [2], b and n.
            blocked: [b, n] or [b n], true or not 0 where a candidate is not to be shown; or None.
        """
        return self._rank(raw, sizes, blocked)


def _ranked(
    scores: tf.Tensor, probabilities: tf.Tensor, present: tf.Tensor, mask: tf.Tensor, top_m: int
) -> Ranked:
    length = tf.reduce_sum(tf.cast(present, tf.int32), 1)
    # Blocked items, of score -1e9, rank above padding: every shown item comes first and padding last.
    keys = chosen(present, scores, tf.fill(tf.shape(scores), 2.0 * LARGE_NEGATIVE))
    candidates = tf.shape(scores)[1]
    order = tf.math.top_k(keys, candidates).indices  # equal scores keep the order
    if top_m:
        order = order[:, :top_m]
    shape = tf.shape(order)
    within = tf.range(shape[1]) < tf.expand_dims(length, 1)
    ranking = chosen(within, order, tf.fill(shape, PADDING_POSITION))
    shown = chosen(tf.gather(mask, order, batch_dims=1), order, tf.fill(shape, candidates))
    return Ranked(scores, probabilities, ranking, shown, length)
