"""Deep Listwise Context Model: a recurrent network reads the initial list, best last."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.baselines.base import Baseline, by_initial_rank
from psad_tf.config import TrainConfig
from psad_tf.features import FeatureDeclaration
from psad_tf.layers.mlp import MLP


class DLCM(Baseline):
    """A GRU over the initial order, from the worst candidate to the best.

    (o_n, ..., o_1), s = GRU(x_n, ..., x_1);  score_i = v . (W_2 o_i * tanh(W s + b))

    The interaction of a candidate's state o_i with the whole list's state s is the paper's local ranking
    function; its loss, softmax attention over the list, is the listwise loss that every scorer here has.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration; `model.embedding_dim` is the width of the GRU.

    Reference: Ai et al., "Learning a Deep Listwise Context Model for Ranking Refinement", SIGIR 2018.
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: TrainConfig
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config, "dlcm")
        dim, dropout = config.model.embedding_dim, config.model.dropout_rate
        self.candidate = MLP((2 * dim, dim), dropout, name="candidate")
        self.reader = tf.keras.layers.GRU(2 * dim, return_sequences=True, return_state=True, name="reader")
        self.of_candidate = tf.keras.layers.Dense(2 * dim, name="of_candidate")
        self.of_list = tf.keras.layers.Dense(2 * dim, activation="tanh", name="of_list")
        self.score = tf.keras.layers.Dense(1, name="score")

    def scores(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        order, place = by_initial_rank(encoded)
        worst_first = tf.reverse(order, [1])
        candidates = self.candidate(self.candidate_inputs(encoded, seed=seed), seed=seed)
        read = tf.gather(candidates, worst_first, batch_dims=1)
        mask = tf.gather(encoded["mask"], worst_first, batch_dims=1)
        states, last = self.reader(read, mask=mask)  # [batch, n, 2d], [batch, 2d]
        states = tf.gather(tf.reverse(states, [1]), place, batch_dims=1)
        return self.score(self.of_candidate(states) * self.of_list(last)[:, tf.newaxis])[..., 0]
