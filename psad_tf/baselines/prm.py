"""Personalized Re-ranking Model: a transformer over the initial list with a personalized vector."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.baselines.base import Baseline
from psad_tf.config import TrainConfig
from psad_tf.features import INITIAL_RANK, FeatureDeclaration
from psad_tf.layers.attention import EncoderLayer
from psad_tf.layers.mlp import MLP


class PRM(Baseline):
    """e_i = W [x_i ; pv_i] + pe(rank_i);  score = w . Transformer(e)_i, softmax over the list.

    pv_i = MLP([u ; v_i]), u the user's and v_i the item's embeddings: the paper takes it from the hidden
    layer of a click model trained beforehand, here it is learnt with the rest. pe is a learned position
    embedding at the candidate's initial rank.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration; `model.teacher` has layers, heads and feed-forward width.

    Reference: Pei et al., "Personalized Re-ranking for Recommendation", RecSys 2019.
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: TrainConfig
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config, "prm")
        model, sizes = config.model, config.model.teacher
        self.positions = max(declaration.max_candidates, sizes.slots)
        self.personal = MLP(
            (2 * model.embedding_dim, model.embedding_dim), model.dropout_rate, name="personal"
        )
        self.candidate = tf.keras.layers.Dense(model.embedding_dim, name="candidate")
        self.layers_ = [
            EncoderLayer(
                model.embedding_dim,
                sizes.num_heads,
                sizes.feed_forward_dim,
                model.dropout_rate,
                name=f"encoder_{index}",
            )
            for index in range(max(1, sizes.encoder_layers))
        ]
        self.norm = tf.keras.layers.LayerNormalization(name="norm")
        self.score = tf.keras.layers.Dense(1, name="score")
        self.position_bases = self.add_weight(
            "position_bases",
            shape=(self.positions, config.model.embedding_dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
        )

    def scores(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        items = self.candidate_inputs.item(encoded, seed)
        users = tf.repeat(
            self.candidate_inputs.user(encoded, seed)[:, tf.newaxis], tf.shape(items)[1], axis=1
        )
        personal = self.personal(tf.concat([users, items], -1), seed=seed)
        ranks = tf.clip_by_value(encoded[INITIAL_RANK], 0, self.positions - 1)
        states = self.candidate(tf.concat([self.candidate_inputs(encoded, seed=seed), personal], -1))
        states += tf.gather(self.position_bases, ranks)
        for layer in self.layers_:
            states = layer(states, encoded["mask"], seed=seed)
        return self.score(self.norm(states))[..., 0]
