"""Pointwise deep neural network: each candidate is scored by itself."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf import losses
from psad_tf.baselines.base import Baseline, was_shown
from psad_tf.config import TrainConfig
from psad_tf.features import SHOWN_POSITION, FeatureDeclaration
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
        self.score = MLP((*config.model.student.hidden_dims, 1), config.model.dropout_rate, name="score")

    def scores(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        return self.score(self.candidate_inputs(encoded, seed=seed), seed=seed)[..., 0]


class DebiasedPointwiseDNN(PointwiseDNN):
    """The pointwise network with a logit of its own for every slot, so that scores need not explain it.

        L = listwise_loss(s_i + b[slot of i]),    ranking by s_i alone

    A click is an examination times an attraction; in the softmax of the listwise loss a factor that depends
    on the slot alone is a term added to the logit. b is learnt with the network where lists are shown in more
    than one order, and left out when a list is ranked.

    Args:
        declaration: The features; slots from `max_candidates` on share the last logit.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration.

    Reference: Zhao et al., "Recommending What Video to Watch Next: A Multitask Ranking System", RecSys 2019
    (its shallow tower of position).
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: TrainConfig
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config)
        self._name = "pointwise_debiased"
        self.slot_logits = self.add_weight("slot_bias", (declaration.max_candidates,), initializer="zeros")

    def list_loss(self, batch: Mapping[str, tf.Tensor], seed: tf.Tensor | None, ties: tf.Tensor) -> tf.Tensor:
        slots = tf.clip_by_value(batch[SHOWN_POSITION], 0, self.slot_logits.shape[0] - 1)
        logits = self.scores(batch, seed) + tf.gather(self.slot_logits, slots)
        return losses.listwise_loss(logits, batch["labels"], where=was_shown(batch))
