"""Teacher and student in one train step: online knowledge distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from psad_tf import losses
from psad_tf.config import TrainConfig
from psad_tf.decoding.blocks import Decoded
from psad_tf.features import INITIAL_RANK, FeatureDeclaration
from psad_tf.layers.dropout import hashed_uniform
from psad_tf.layers.user_profile_network import UserProfile
from psad_tf.models.student import Reranker
from psad_tf.models.teacher import Memory, Teacher

# A table with more values than this gets sparse gradients and lazy updates.
_DENSE_GRADIENT_LIMIT = 4_000_000


class PSAD(tf.keras.Model):
    """The whole model. Calling it scores with the student; `generate` lets the teacher write the list.

    One step minimizes L = L_teacher + a L_student + b(t) L_KD over one tape and one compiled graph:

    - L_teacher: `slot_cross_entropy` against the ideal list, plus `pointwise_loss` of the pointer's
      bias, plus `unlikelihood` of explicit negatives;
    - L_student: `listwise_loss` plus `pointwise_loss`;
    - L_KD: `distillation_loss` from the teacher's slot distributions, ramped up from 0, plus the
      optional `pairwise_order_loss`. The teacher is under stop_gradient there, from the first step on:
      it is not trained beforehand.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: The run's configuration.
        tutor: A trained model to distil from in place of the own teacher (offline distillation); it is
            not trained further, and neither is the own teacher.

    Reference: arXiv 2603.07107.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        vocabulary_sizes: Mapping[str, int],
        config: TrainConfig,
        tutor: PSAD | None = None,
    ) -> None:
        super().__init__(name="psad")
        self.config = config
        self.reranker = Reranker(declaration, vocabulary_sizes, config.model)
        self.teacher = Teacher(config.model)
        self._tutor = [tutor] if tutor is not None else []  # in a list: not a part of this model
        if tutor is not None:
            tutor.trainable = False
        self.step = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            name="step",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The student's `scores` and `probabilities`, float32 [batch, n]."""
        return self.reranker(encoded)

    def profile(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> UserProfile:
        """The User Profile Network alone."""
        return self.reranker.user_profile_network(encoded, seed=seed)

    def generate(self, encoded: Mapping[str, tf.Tensor], **options: Any) -> Decoded:
        """The teacher's list for each of a batch; `options` as in `Teacher.generate`."""
        profile = self.profile(encoded)
        memory = self.teacher.encode(profile, encoded["mask"], encoded[INITIAL_RANK])
        return self.teacher.generate(memory, **options)

    def rank(self, encoded: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Ranking scores of both, float32 [batch, n]: `student`, `teacher`, and `probabilities`."""
        profile = self.profile(encoded)
        memory = self.teacher.encode(profile, encoded["mask"], encoded[INITIAL_RANK])
        student = self.reranker.score(profile, encoded)
        return {
            "student": student["scores"],
            "probabilities": student["probabilities"],
            "teacher": self.teacher.generate(memory).scores,
        }

    def compute_losses(
        self,
        batch: Mapping[str, tf.Tensor],
        dropout_seed: tf.Tensor | None,
        ties: tf.Tensor,
        weight: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Every term of the loss for one batch.

        Args:
            batch: Encoded tensors with `labels` and `negatives`.
            dropout_seed: int32 [2], or None for no dropout.
            ties: float32 [batch, n] in [0, 1), orders equal labels in the list the teacher is fed.
            weight: b(t), float32 scalar.

        Returns:
            Scalars: `loss` and its terms.
        """
        config, labels, mask = self.config, batch["labels"], batch["mask"]
        profile = self.profile(batch, dropout_seed)
        terms: dict[str, tf.Tensor] = {}
        relevance = None
        if not self._tutor:
            terms, relevance = self._teacher_terms(batch, profile, dropout_seed, ties)
        elif config.distillation.enabled:
            relevance = self._tutor[0].soft_relevance(batch, ties)
        student = self.reranker.score(profile, batch, dropout_seed)
        scores = student["scores"]
        terms["student_listwise"] = losses.listwise_loss(scores, labels, mask)
        terms["student_pointwise"] = losses.pointwise_loss(student["probabilities"], labels, mask)
        total = config.loss.student_weight * (
            terms["student_listwise"] + config.loss.pointwise_weight * terms["student_pointwise"]
        )
        if not self._tutor:
            total += terms["teacher"] + config.loss.unlikelihood_weight * terms["unlikelihood"]
            total += config.loss.teacher_pointwise_weight * terms["teacher_pointwise"]
        if relevance is not None:
            distillation = config.distillation
            terms["distillation"] = losses.distillation_loss(
                scores, relevance, mask, distillation.temperature
            )
            if distillation.pairwise_weight:
                terms["distillation"] += distillation.pairwise_weight * losses.pairwise_order_loss(
                    scores, relevance, mask
                )
            total += weight * terms["distillation"]
        return {"loss": total, **terms}

    def soft_relevance(self, batch: Mapping[str, tf.Tensor], ties: tf.Tensor) -> tf.Tensor:
        """What this model's teacher knows of a batch's candidates, float32 [batch, n], no gradient."""
        profile = self.profile(batch)
        memory = self.teacher.encode(profile, batch["mask"], batch[INITIAL_RANK])
        if self.config.distillation.source == "generated":
            probabilities = self.teacher.generate(memory, strategy="greedy").probabilities
        else:
            _, available, logits = self._forced(batch, memory, ties, None)
            probabilities = losses.masked_softmax(logits, available)
        return tf.stop_gradient(losses.soft_relevance(probabilities, batch["mask"]))

    def _forced(
        self,
        batch: Mapping[str, tf.Tensor],
        memory: Memory,
        ties: tf.Tensor,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Ideal order, availability and logits under teacher forcing."""
        slots = memory.positions.shape[1]
        block_size = min(self.config.model.teacher.block_size, slots)
        order = losses.ideal_order(batch["labels"], batch["mask"], ties, slots)
        available = losses.slot_availability(order, batch["mask"], block_size)
        return order, available, self.teacher.forced_logits(memory, order, block_size, seed)

    def _teacher_terms(
        self,
        batch: Mapping[str, tf.Tensor],
        profile: UserProfile,
        seed: tf.Tensor | None,
        ties: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """The teacher's losses, and the soft relevance it gives the student (None without it)."""
        labels, mask = batch["labels"], batch["mask"]
        memory = self.teacher.encode(profile, mask, batch[INITIAL_RANK], seed)
        order, available, logits = self._forced(batch, memory, ties, seed)
        targets, weights = losses.slot_targets(labels, available, order)
        worth = tf.sigmoid(tf.cast(memory.bias, tf.float32))
        terms = {
            "teacher": losses.slot_cross_entropy(logits, available, targets, weights),
            "teacher_pointwise": losses.pointwise_loss(worth, labels, mask),
            "unlikelihood": losses.unlikelihood(logits, available, batch["negatives"], weights),
        }
        if not self.config.distillation.enabled or self.config.distillation.mode == "offline":
            return terms, None
        if self.config.distillation.source == "generated":
            probabilities = self.teacher.generate(memory, strategy="greedy").probabilities
        else:
            probabilities = losses.masked_softmax(logits, available)
        return terms, tf.stop_gradient(losses.soft_relevance(probabilities, mask))

    def train_step(self, data: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on one batch; Keras compiles it, with `jit_compile=True` by XLA.

        All randomness (dropout, order of equal labels) is a function of the configured seed and the
        step's number, so a run resumed from a checkpoint goes on exactly as it would have.

        Args:
            data: Encoded tensors with `labels` and `negatives`.

        Returns:
            The loss, its terms, b(t), and the gradient's global norm before it is clipped (over replicas,
            the sum of their norms).
        """
        step = tf.cast(self.step, tf.int32)
        seed = tf.stack([tf.constant(self.config.seed, tf.int32), step])
        ties = hashed_uniform(tf.shape(data["labels"]), seed, "ties")
        weight = self.config.distillation.weight * losses.ramp(self.step, self.config.distillation.ramp_steps)
        with tf.GradientTape() as tape:
            terms = self.compute_losses(data, seed, ties, weight)
            objective = terms["loss"]
            scaled = (
                self.optimizer.get_scaled_loss(objective)
                if hasattr(self.optimizer, "get_scaled_loss")
                else objective
            )
        variables = self.trainable_variables
        gradients = [
            _densified(gradient, variable)
            for gradient, variable in zip(tape.gradient(scaled, variables), variables, strict=True)
        ]
        if hasattr(self.optimizer, "get_unscaled_gradients"):
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        norm = tf.linalg.global_norm([gradient for gradient, _ in pairs])
        self.optimizer.apply_gradients(pairs)
        self.step.assign_add(1)
        # Keras sums these over replicas; the terms are parts of a mean, the weight is not.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return {**terms, "distillation_weight": weight / replicas, "gradient_norm": norm}


def _densified(
    gradient: tf.Tensor | tf.IndexedSlices | None, variable: tf.Variable
) -> tf.Tensor | tf.IndexedSlices | None:
    """Small tables are cheaper to update whole; large ones keep their sparse gradient."""
    if isinstance(gradient, tf.IndexedSlices) and variable.shape.num_elements() <= _DENSE_GRADIENT_LIMIT:
        return tf.convert_to_tensor(gradient)
    return gradient
