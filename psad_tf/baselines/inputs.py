"""What every neural baseline sees of a list: the same features as PSAD, without its profile network."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.config import ModelConfig
from psad_tf.features import HISTORY_PREFIX, INITIAL_RANK, FeatureDeclaration
from psad_tf.layers.embedding import FeatureEmbedding
from psad_tf.masking import masked_mean


class CandidateInputs(tf.keras.layers.Layer):
    """One vector a candidate, of every declared feature.

    x_i = [e(candidate features) ; dense_i ; log(1 + rank_i) ; e(context) ; dense context ;
           mean_j e(history_j) ; mean_j dense history_j ; mean_j e_v(history_j) * e_v(candidate_i)]

    with e the embeddings (one table a vocabulary, as in PSAD) and the last part for every vocabulary v
    that candidates and history share: how alike a candidate is to the user's past. Padding of the
    history is left out of the means.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: Width and kind of the embeddings, and their dropout.
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: ModelConfig
    ) -> None:
        super().__init__(name="candidate_inputs")
        self.declaration = declaration
        self.embeddings = FeatureEmbedding(vocabulary_sizes, config.embedding_dim, config.embedding)

    def call(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """Gathers the features of a batch.

        Args:
            encoded: What `FeatureEncoder` gives.
            seed: int32 [2], turns dropout on.

        Returns:
            float32 [batch, n, width].
        """
        declaration = self.declaration
        past = encoded["history_mask"]
        history = {
            f.vocabulary: masked_mean(
                self.embeddings(encoded[HISTORY_PREFIX + f.name], f, seed=seed, label=HISTORY_PREFIX), past
            )
            for f in declaration.history.categorical
        }
        candidates = {
            f.vocabulary: self.embeddings(encoded[f.name], f, seed=seed)
            for f in declaration.candidate_categorical
        }
        alike = [
            candidates[vocabulary] * mean[:, tf.newaxis]
            for vocabulary, mean in history.items()
            if vocabulary in candidates
        ]
        pooled = masked_mean(encoded["history_dense"], past)
        of_list = tf.concat([self.user(encoded, seed), *history.values(), pooled], -1)
        ranks = tf.math.log1p(tf.cast(encoded[INITIAL_RANK], tf.float32))[..., tf.newaxis]
        of_lists = tf.repeat(of_list[:, tf.newaxis], tf.shape(ranks)[1], axis=1)
        parts = [*candidates.values(), *alike, encoded["candidate_dense"], ranks, of_lists]
        return tf.concat(parts, -1)

    def user(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """The context's embeddings and dense features alone, float32 [batch, width]."""
        features = self.declaration.context_categorical
        parts = [self.embeddings(encoded[f.name], f, seed=seed) for f in features]
        return tf.concat([*parts, encoded["context_dense"]], -1)

    def item(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> tf.Tensor:
        """The candidates' embeddings alone, float32 [batch, n, width]."""
        features = self.declaration.candidate_categorical
        return tf.concat([self.embeddings(encoded[f.name], f, seed=seed) for f in features], -1)
