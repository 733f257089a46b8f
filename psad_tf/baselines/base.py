"""The contract of the neural rerankers that PSAD is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf import losses
from psad_tf.baselines.inputs import CandidateInputs
from psad_tf.config import TrainConfig
from psad_tf.features import INITIAL_RANK, SHOWN_POSITION, FeatureDeclaration
from psad_tf.layers.dropout import hashed_uniform
from psad_tf.masking import LARGE_NEGATIVE


class Baseline(tf.keras.Model):
    """A reranker that trains on encoded lists and gives one score a candidate.

    A subclass is a scorer, which overrides `scores` and inherits the listwise softmax loss, or a
    generator, which overrides `list_loss` and `rank`. Losses are over the candidates that were shown: the
    others have no label, and are scored like any other when a list is ranked. Widths, layers, heads, dropout,
    optimizer and data are read from the same `TrainConfig` as PSAD's: `model.teacher` has the transformer's
    sizes and the number of slots, `model.student` the widths of scoring layers.

    Not done here: mixed precision, distillation.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: The run's configuration.
        name: Name of the model.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        vocabulary_sizes: Mapping[str, int],
        config: TrainConfig,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self.config = config
        self.candidate_inputs = CandidateInputs(declaration, vocabulary_sizes, config.model)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def scores(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tf.Tensor:
        """Scores before masking.

        Args:
            encoded: What `FeatureEncoder` gives.
            seed: int32 [2], turns dropout on.

        Returns:
            float32 [batch, n].
        """
        raise NotImplementedError(f"{type(self).__name__} gives no scores: it overrides rank and list_loss")

    def rank(self, encoded: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Ranking scores, float32 [batch, n]: higher is nearer the top, padding lowest."""
        return tf.where(encoded["mask"], self.scores(encoded, None), LARGE_NEGATIVE)

    def list_loss(self, batch: Mapping[str, tf.Tensor], seed: tf.Tensor | None, ties: tf.Tensor) -> tf.Tensor:
        """The loss of a batch: `losses.listwise_loss` unless overridden.

        Args:
            batch: Encoded tensors with `labels`, `negatives` and `shown_position`.
            seed: int32 [2], turns dropout on.
            ties: float32 [batch, n] in [0, 1), orders equal labels where a list is needed.

        Returns:
            A float32 scalar.
        """
        return losses.listwise_loss(self.scores(batch, seed), batch["labels"], where=was_shown(batch))

    @tf.autograph.experimental.do_not_convert
    def call(self, encoded: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The same as `rank`."""
        return self.rank(encoded)

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One optimizer step; its randomness is a function of the configured seed and the step's number."""
        seed = tf.stack([tf.constant(self.config.seed, tf.int32), tf.cast(self.step, tf.int32)])
        ties = hashed_uniform(tf.shape(data["labels"]), seed, "ties")
        with tf.GradientTape() as tape:
            loss = self.list_loss(data, seed, ties)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        pairs = [
            (tf.convert_to_tensor(gradient), variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            if gradient is not None
        ]
        self.optimizer.apply_gradients(pairs)
        self.step.assign_add(1)
        return {"loss": loss}


def was_shown(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Which candidates have a label, bool [batch, n]."""
    return batch[SHOWN_POSITION] >= 0


def by_initial_rank(encoded: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The way to the initial ranker's order and back.

    Args:
        encoded: With `initial_rank` int32 [batch, n] and `mask` bool [batch, n].

    Returns:
        int32 [batch, n] each: the candidate at each place of the initial order, padding last; and the
        place of each candidate.
    """
    keys = tf.where(encoded["mask"], encoded[INITIAL_RANK], tf.int32.max)
    order = tf.argsort(keys, axis=-1, stable=True)
    return order, tf.argsort(order, axis=-1)
