"""Pointwise deep neural network: each candidate is scored by itself."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf.baselines.base import Baseline
from psad_tf.config import TrainConfig
from psad_tf.features import FeatureDeclaration
from psad_tf.layers.mlp import MLP


class PointwiseDNN(Baseline):
    """s_i = MLP(x_i), trained with the listwise softmax loss: a univariate TensorFlow Ranking model.

    Nothing of the other candidates enters a score, so it bounds what reranking without list context
    gives.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration; `model.student.hidden_dims` are the widths.

    Reference: Pasumarthi et al., "TF-Ranking: Scalable TensorFlow Library for Learning-to-Rank", KDD
    2019.
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: TrainConfig
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config, "pointwise")
        self.score = MLP((*config.model.student.hidden_dims, 1), config.model.dropout, name="score")

    def scores(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        return self.score(self.candidate_inputs(encoded, seed=seed), seed=seed)[..., 0]
