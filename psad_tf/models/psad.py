"""Teacher and student in one train step: online knowledge distillation."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from psad_tf import losses
from psad_tf.config import (
    DistillationConfig,
    EmbeddingConfig,
    LossConfig,
    PSADConfig,
    StudentConfig,
    TeacherConfig,
    UserProfileConfig,
    load_train_config,
)
from psad_tf.data.empty_batch import empty_batch
from psad_tf.decoding.blocks import Decoded
from psad_tf.errors import InputError
from psad_tf.features import INITIAL_RANK, SHOWN_POSITION, FeatureDeclaration
from psad_tf.layers.dropout import hashed_uniform
from psad_tf.layers.user_profile_network import UserProfile
from psad_tf.masking import masked_softmax
from psad_tf.metrics.keras_metric import RankingMetric
from psad_tf.metrics.loss_term import LossTerm
from psad_tf.models.student import Reranker
from psad_tf.models.teacher import Memory, Teacher

# A table with more values than this gets sparse gradients and lazy updates.
_DENSE_GRADIENT_LIMIT = 4_000_000

RANKERS = ("student", "teacher")
DEFAULT_METRICS = ("ndcg@10", "map@10", "mrr")


@tf.keras.utils.register_keras_serializable("psad_tf")
class PSAD(tf.keras.Model):
    """The whole model. Calling it scores with the student; `generate` lets the teacher write the list.

    One step minimizes one sum over one tape and one compiled graph:

    - `value`: `shown_list_loss` of the teacher's value head on the lists as they were shown;
    - `policy`: `slot_cross_entropy` of its policy head against the ideal list, and `unlikelihood` of
      explicit negatives (both left out where their weight is 0);
    - `student_listwise` and `student_pointwise`: the student on shown labels;
    - `distillation`: `plackett_luce_loss` of the student's scores on the list that the teacher generates
      in the same step, ramped up from 0. The teacher is under stop_gradient there, from the first step
      on: it is not trained beforehand.

    The student sees the User Profile Network's output under stop_gradient, so that network learns from
    the teacher's losses alone.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary, padding and out-of-vocabulary included.
        config: What the following arguments change; None takes the defaults.
        embedding_dim: d, width of every embedding and hidden representation, 32 by default.
        dropout_rate: Share of hidden values dropped in training, 0.1 by default.
        embedding: A part of the architecture; a mapping names what differs from the defaults, as in
            `teacher={"slots": 6, "block_size": 3}`.
        user_profile: In the same way, as are the following ones.
        teacher: L, K, decoder and decoding.
        student: Its hidden layers and context.
        loss: Weights of the losses.
        distillation: How the student is taught.
        seed: Of dropout and of the order of equal labels, 1 by default.
        tutor: A trained model to distil from (offline distillation); it is not trained further. Profile
            network and teacher start as its copies; the teacher stays one, and so does the profile network
            unless `student.stop_gradient` is off.

    No control flow depends on tensors, so AutoGraph is told to leave the methods alone: parsing them would
    take most of the time of building a step.

    Raises:
        InputError: A key is unknown or its value is impossible, or the tutor's architecture is another.

    Example:

        model = PSAD(declaration, encoder.vocabulary_sizes, teacher={"slots": 6, "block_size": 3})
        model.compile("adam", metrics=["ndcg@10"])
        model.fit(train, validation_data=valid, epochs=5)

    Reference: arXiv 2603.07107.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration | Mapping[str, Any],
        vocabulary_sizes: Mapping[str, int],
        config: PSADConfig | None = None,
        tutor: PSAD | None = None,
        *,
        embedding_dim: int | None = None,
        dropout_rate: float | None = None,
        embedding: EmbeddingConfig | Mapping[str, Any] | None = None,
        user_profile: UserProfileConfig | Mapping[str, Any] | None = None,
        teacher: TeacherConfig | Mapping[str, Any] | None = None,
        student: StudentConfig | Mapping[str, Any] | None = None,
        loss: LossConfig | Mapping[str, Any] | None = None,
        distillation: DistillationConfig | Mapping[str, Any] | None = None,
        seed: int | None = None,
        name: str = "psad",
    ) -> None:
        super().__init__(name=name)
        model = {
            "embedding_dim": embedding_dim,
            "dropout_rate": dropout_rate,
            "embedding": embedding,
            "user_profile": user_profile,
            "teacher": teacher,
            "student": student,
        }
        changes = {"model": _given(model), "loss": loss, "distillation": distillation, "seed": seed}
        self.config = config = (config or PSADConfig()).changed(_given(changes))
        self.declaration = declaration = FeatureDeclaration.of(declaration)
        self.max_label = float(max((rule.grade for rule in declaration.label.grades), default=1))
        self.reranker = Reranker(declaration, vocabulary_sizes, config.model)
        self.teacher = Teacher(config.model, self.reranker.user_profile_network.position_count)
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
        self.loss_terms = {name: LossTerm(name) for name in self._term_names()}
        self.ranking_metrics: dict[str, list[RankingMetric]] = {}
        self.build()
        if tutor is not None:
            self._start_from(tutor)

    def _start_from(self, tutor: PSAD) -> None:
        """Copies what the tutor has learnt; nothing in this model would train its teacher."""
        parts = (
            (self.reranker.user_profile_network, tutor.reranker.user_profile_network),
            (self.teacher, tutor.teacher),
        )
        for own, taught in parts:
            if [weight.shape for weight in own.weights] != [weight.shape for weight in taught.weights]:
                raise InputError("tutor: its architecture is not this model's")
            own.set_weights(taught.get_weights())
        self.teacher.trainable = False
        self.reranker.user_profile_network.trainable = not self.config.model.student.stop_gradient

    @classmethod
    def from_preset(
        cls, preset: str, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], **changes: Any
    ) -> PSAD:
        """The model of a preset's configuration (`movielens` for instance); `changes` as in the constructor.

        Raises:
            InputError: There is no such preset.
        """
        return cls(declaration, vocabulary_sizes, load_train_config(preset), **changes)

    def get_config(self) -> dict[str, Any]:
        """JSON-ready arguments, `from_config` makes an equal model of them."""
        network = self.reranker.user_profile_network.settings
        parts = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(PSADConfig)}
        return {
            "name": self.name,
            "declaration": network["declaration"],
            "vocabulary_sizes": network["vocabulary_sizes"],
            "config": PSADConfig(**parts).to_dict(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PSAD:
        """Makes the model that `get_config` describes, with new weights."""
        return cls(**{**config, "config": PSADConfig.from_dict(config["config"])})

    def build(self, input_shape: Any = None) -> None:
        """Makes the weights; done at construction, since no batch is needed to know their shapes."""
        if not getattr(self, "built", False):
            self.built = True
            self.rank(empty_batch(self.declaration, lists=1, candidates=1))  # one slot uses every layer

    def get_build_config(self) -> dict[str, Any]:
        """Nothing: see `build`."""
        return {}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Makes the weights of a loaded model."""
        self.build()

    def compile(
        self,
        optimizer: str | tf.keras.optimizers.Optimizer = "adam",
        metrics: Sequence[str | RankingMetric] = DEFAULT_METRICS,
        jit_compile: bool = True,
        **kwargs: Any,
    ) -> None:
        """Configures training. The losses are the model's own (`loss` and `distillation` of the constructor).

        Args:
            optimizer: Any of Keras; `psad_tf.training.optimizer.make_optimizer` gives one with a rate of
                its own for embedding tables.
            metrics: Ranking metrics by name (`psad_tf.metrics.METRICS`) or as objects. `evaluate` and
                validation report each for both, as `student_ndcg_10` and `teacher_ndcg_10`.
            jit_compile: Compile the train step with XLA.
            **kwargs: `run_eagerly` and `steps_per_execution` of `tf.keras.Model.compile`.

        Raises:
            ValueError: A metric is unknown.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self.optimizer.build(self.trainable_variables)  # all, whatever a batch has gradients for
        names = [metric if isinstance(metric, str) else metric.metric for metric in metrics]
        self._compiled_with = types.MappingProxyType({"metrics": names, "jit_compile": jit_compile})
        self.ranking_metrics = {
            ranker: [RankingMetric(name, f"{ranker}_{name.replace('@', '_')}") for name in names]
            for ranker in RANKERS
        }

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile` was given, JSON-ready."""
        return {
            "optimizer": tf.keras.optimizers.serialize(self.optimizer),
            **self._compiled_with,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as it was."""
        optimizer = tf.keras.optimizers.deserialize(config["optimizer"])
        self.compile(optimizer, config["metrics"], config["jit_compile"])

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """Means over an epoch: the loss's terms, and each ranking metric of student and teacher."""
        ranking = [metric for ranker in RANKERS for metric in self.ranking_metrics.get(ranker, [])]
        return [*self.loss_terms.values(), *ranking]

    @tf.autograph.experimental.do_not_convert
    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> dict[str, tf.Tensor]:
        """The student's `scores` and `probabilities`, float32 [batch, n].

        Args:
            encoded: What `FeatureEncoder` gives.
            training: Turns dropout on, drawn from the model's seed and step.
        """
        return self.reranker(encoded, seed=self._dropout_seed() if training else None)

    def _dropout_seed(self) -> tf.Tensor:
        return tf.stack([tf.constant(self.config.seed, tf.int32), tf.cast(self.step, tf.int32)])

    def _term_names(self) -> list[str]:
        config = self.config
        names = ["loss", "student_listwise", "student_pointwise"]
        if not self._tutor:
            names.append("value")
            if config.loss.policy_weight:
                names += ["policy", "unlikelihood"]
        if config.distillation.source != "none" and (self._tutor or config.distillation.mode == "online"):
            names.append("distillation")
        return [*names, "distillation_weight", "gradient_norm"]

    def profile(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None = None) -> UserProfile:
        """The User Profile Network alone."""
        return self.reranker.user_profile_network(encoded, seed=seed)

    def memory(self, encoded: Mapping[str, tf.Tensor]) -> Memory:
        """The candidate set as the teacher's decoder reads it."""
        return self.teacher.encode(self.profile(encoded), encoded["mask"], encoded[INITIAL_RANK])

    @tf.autograph.experimental.do_not_convert
    def generate(self, encoded: Mapping[str, tf.Tensor], **options: Any) -> Decoded:
        """The teacher's list for each of a batch; `options` as in `Teacher.generate`."""
        return self.teacher.generate(self.memory(encoded), **options)

    @tf.autograph.experimental.do_not_convert
    def list_value(
        self, encoded: Mapping[str, tf.Tensor], order: tf.Tensor, block_size: int | None = None
    ) -> tf.Tensor:
        """What the teacher expects a list to be worth: the sum of the values along it.

        Args:
            encoded: What `FeatureEncoder` gives.
            order: int32 [batch, S], the candidate at each slot, -1 where empty.
            block_size: K; None for the configured one.

        Returns:
            float32 [batch], the expected sum of gains.
        """
        return tf.reduce_sum(self.teacher.shown_values(self.memory(encoded), order, block_size), -1)

    @tf.autograph.experimental.do_not_convert
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

    @tf.autograph.experimental.do_not_convert
    def compute_losses(
        self,
        batch: Mapping[str, tf.Tensor],
        dropout_seed: tf.Tensor | None,
        ties: tf.Tensor,
        weight: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Every term of the loss for one batch.

        Args:
            batch: Encoded tensors with `shown_position`, `labels` and `negatives`.
            dropout_seed: int32 [2], or None for no dropout.
            ties: float32 [batch, n] in [0, 1), orders equal labels in the ideal list.
            weight: b(t), float32 scalar.

        Returns:
            Scalars: `loss` and its terms.
        """
        config = self.config
        shown = batch[SHOWN_POSITION] >= 0
        profile = self.profile(batch, dropout_seed)
        terms: dict[str, tf.Tensor] = {}
        weights: dict[str, float | tf.Tensor] = {}
        taught = None
        if not self._tutor:
            memory = self.teacher.encode(profile, batch["mask"], batch[INITIAL_RANK], dropout_seed)
            terms, relevance = self._teacher_terms(batch, shown, memory, dropout_seed, ties)
            weights = {
                "value": config.loss.value_weight,
                "policy": config.loss.policy_weight,
                "unlikelihood": config.loss.policy_weight * config.loss.unlikelihood_weight,
            }
            if config.distillation.mode == "online":
                taught = self._lesson(memory, relevance, config.distillation.source)
        elif config.distillation.source != "none":
            taught = self._tutor[0].lesson(batch, ties, config.distillation.source)
        student = self.reranker.score(profile, batch, dropout_seed)
        labels = batch["labels"]
        terms["student_listwise"] = losses.listwise_loss(student["scores"], labels, where=shown)
        terms["student_pointwise"] = losses.pointwise_loss(student["probabilities"], labels, where=shown)
        weights["student_listwise"] = config.loss.listwise_weight
        weights["student_pointwise"] = config.loss.pointwise_weight
        if taught is not None:
            terms["distillation"] = self._distillation(student["scores"], taught, batch["mask"])
            weights["distillation"] = weight
        total = tf.add_n([weights[name] * term for name, term in terms.items()])
        return {"loss": total, **terms}

    def lesson(self, batch: Mapping[str, tf.Tensor], ties: tf.Tensor, source: str) -> tf.Tensor | None:
        """What this model's teacher has to say to a student about a batch, no gradient.

        Args:
            batch: Encoded tensors.
            ties: float32 [batch, n] in [0, 1), orders equal labels in the ideal list.
            source: The student's `distillation.source`; a tutor has none of its own.

        Returns:
            Of `generated` an order int32 [batch, L], of `forced` relevance float32 [batch, n].
        """
        memory = self.memory(batch)
        relevance = None
        if source == "forced":
            shown = batch[SHOWN_POSITION] >= 0
            relevance = self._policy(batch, shown, memory, ties, None)[-1]
        return self._lesson(memory, relevance, source)

    def _lesson(self, memory: Memory, relevance: tf.Tensor | None, source: str) -> tf.Tensor | None:
        """See `lesson`; without a source there is none."""
        if source == "generated":
            return self.teacher.generate(tf.nest.map_structure(tf.stop_gradient, memory)).order
        return relevance if source == "forced" else None

    def _distillation(self, scores: tf.Tensor, taught: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        if self.config.distillation.source == "generated":
            return losses.plackett_luce_loss(scores, taught, where=mask)
        return losses.distillation_loss(
            scores, taught, where=mask, temperature=self.config.distillation.temperature
        )

    def _teacher_terms(
        self,
        batch: Mapping[str, tf.Tensor],
        shown: tf.Tensor,
        memory: Memory,
        seed: tf.Tensor | None,
        ties: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """The teacher's losses, and the policy's soft relevance (None without the policy)."""
        # Of several padded sizes none is known when the step is traced; any length that holds all will do.
        slots = batch["mask"].shape[1] or self.declaration.max_candidates
        order = losses.shown_order(batch[SHOWN_POSITION], slots)
        gains = tf.gather(losses.gains(batch["labels"], self.max_label), tf.maximum(order, 0), batch_dims=1)
        values = self.teacher.shown_values(memory, order, seed=seed)
        terms = {"value": losses.shown_list_loss(values, gains, where=order >= 0)}
        if not self.config.loss.policy_weight:
            return terms, None
        terms["policy"], terms["unlikelihood"], relevance = self._policy(batch, shown, memory, ties, seed)
        return terms, relevance

    def _policy(
        self,
        batch: Mapping[str, tf.Tensor],
        shown: tf.Tensor,
        memory: Memory,
        ties: tf.Tensor,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The policy's losses on the ideal list of what was shown, and its soft relevance."""
        slots = self.teacher.slots(batch["mask"].shape[1])
        order = losses.ideal_order(batch["labels"], ties, slots, where=shown)
        block_size = min(self.config.model.teacher.block_size, slots)
        available = losses.slot_availability(order, block_size, where=shown)
        logits = self.teacher.policy_logits(memory, order, block_size, seed)
        targets, weights = losses.slot_targets(batch["labels"], order, where=available)
        relevance = losses.soft_relevance(masked_softmax(logits, available), where=shown)
        return (
            losses.slot_cross_entropy(logits, targets, where=available, weights=weights),
            losses.unlikelihood(logits, batch["negatives"], where=available, weights=weights),
            tf.stop_gradient(relevance),
        )

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step on one batch; Keras compiles it, with `jit_compile=True` by XLA.

        All randomness (dropout, order of equal labels) is a function of the configured seed and the
        step's number, so a run resumed from a checkpoint continues exactly as it would have.

        Args:
            data: Encoded tensors with `labels`, or a pair of encoded tensors and labels [batch, n].

        Returns:
            The epoch's means so far: the loss, its terms, b(t), and the gradient's global norm before it is
            clipped (over replicas, the sum of their norms).
        """
        batch = _as_batch(data)
        seed = self._dropout_seed()
        ties = hashed_uniform(tf.shape(batch["labels"]), seed, "ties")
        weight = self.config.distillation.weight * losses.ramp(self.step, self.config.distillation.ramp_steps)
        with tf.GradientTape() as tape:
            terms = self.compute_losses(batch, seed, ties, weight)
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
        self._count({**terms, "gradient_norm": norm})
        self.loss_terms["distillation_weight"].update_state(weight)
        return {name: term.result() for name, term in self.loss_terms.items()}

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The loss's terms without dropout, and the ranking metrics of student and teacher."""
        batch = _as_batch(data)
        ties = tf.zeros_like(batch["labels"])
        self._count(self.compute_losses(batch, None, ties, tf.constant(self.config.distillation.weight)))
        ranked = self.rank(batch)
        labels = tf.where(batch[SHOWN_POSITION] >= 0, batch["labels"], -1.0)
        for ranker, metrics in self.ranking_metrics.items():
            for metric in metrics:
                metric.update_state(labels, ranked[ranker])
        apart = ("distillation_weight", "gradient_norm")
        return {metric.name: metric.result() for metric in self.metrics if metric.name not in apart}

    def _count(self, terms: Mapping[str, tf.Tensor]) -> None:
        """Adds a step's terms, of which each replica has a part."""
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            context = tf.distribute.get_replica_context()
            sums = context.all_reduce("sum", tf.stack(list(terms.values())))
            terms = dict(zip(terms, tf.unstack(sums), strict=True))
        for name, value in terms.items():
            self.loss_terms[name].update_state(value)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _as_batch(data: Any) -> Mapping[str, tf.Tensor]:
    """One mapping of what Keras was given, as a mapping with labels or as a pair of inputs and labels.

    Without shown positions, all candidates were shown in their order; without negatives there are none.
    """
    inputs, labels, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None:
        raise ValueError("sample weights are not supported")
    batch = inputs if labels is None else {**inputs, "labels": tf.cast(labels, tf.float32)}
    if "labels" not in batch:
        raise ValueError("training and evaluation need labels: in the inputs as 'labels', or beside them")
    mask = batch["mask"]
    return {
        "negatives": tf.zeros_like(batch["labels"]),
        SHOWN_POSITION: tf.where(mask, tf.range(tf.shape(mask)[1]), -1),
        **batch,
    }


def _densified(
    gradient: tf.Tensor | tf.IndexedSlices | None, variable: tf.Variable
) -> tf.Tensor | tf.IndexedSlices | None:
    """Small tables are cheaper to update whole; large ones keep their sparse gradient."""
    if isinstance(gradient, tf.IndexedSlices) and variable.shape.num_elements() <= _DENSE_GRADIENT_LIMIT:
        return tf.convert_to_tensor(gradient)
    return gradient
