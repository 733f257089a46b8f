"""Configuration: frozen dataclasses, checked once, read from and written to JSON.

This module imports nothing of the library but the strict JSON reader and its error.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
import re
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from psad_tf.errors import InputError
from psad_tf.features import from_plain, load_json


@dataclasses.dataclass(frozen=True)
class UserProfileConfig:
    """The User Profile Network; each part can be switched off alone.

    Args:
        personalized_gates: Gate each item embedding by intent and item; off means no gate.
        personalized_positions: Mix the position bases by the user's intent; off means one learned
            position encoding shared by all users.
        target_attention: Attend from each candidate to the history.
        cross: Cross user and item with a DCN-v2 layer; off, since no data set showed a gain.
        history_match: Multiply a candidate's embeddings with the history's mean ones.
        relative_features: Give each candidate its dense features relative to its list's, too.
        position_bases: M, the number of learned position bases.
        short_term_length: The number of most recent interactions that make the short-term interest.
        cross_projection_dim: Rank of the Cross layer's weight; 0 means full rank.
    """

    personalized_gates: bool = True
    personalized_positions: bool = True
    target_attention: bool = True
    cross: bool = False
    history_match: bool = True
    relative_features: bool = True
    position_bases: int = 4
    short_term_length: int = 5
    cross_projection_dim: int = 0


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The semi-autoregressive generator.

    Args:
        slots: L, the list length that it generates.
        block_size: K, the slots filled in one step, 1 to L.
        encoder_layers: Transformer layers over the candidate set.
        decoder_layers: Transformer layers over the slots.
        num_heads: Attention heads; divides the model's width.
        feed_forward_dim: Inner width of the feed-forward layers.
        initial_rank: Add the position encoding of a candidate's initial rank to it; off, since where lists
            are shown in the initial order it would explain feedback that the slot explains.
        pair_term: Let every item that is placed move the value of the candidates directly, inside a
            block too.
        pair_heads: Heads of the pair term.
        pair_dim: Width of a head of the pair term.
        pair_hidden_dim: Width of the network after the pair term's sums.
        position_bias: How a slot changes the value of what stands in it: `examination` multiplies it,
            `additive` adds to its logit, `none`.
        decoding: How a list of large value is found: `greedy` (slot by slot), `assignment` (exact best
            assignment inside a block) or `beam` (beam search over slots).
        beam_width: Beams kept when decoding is `beam`.
    """

    slots: int = 20
    block_size: int = 5
    encoder_layers: int = 1
    decoder_layers: int = 1
    num_heads: int = 4
    feed_forward_dim: int = 128
    initial_rank: bool = False
    pair_term: bool = True
    pair_heads: int = 4
    pair_dim: int = 8
    pair_hidden_dim: int = 16
    position_bias: Literal["examination", "additive", "none"] = "examination"
    decoding: Literal["greedy", "assignment", "beam"] = "greedy"
    beam_width: int = 4


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The light scorer.

    Args:
        hidden_dims: Width of a candidate's representation, then widths of the layers that refine its
            score.
        context: What a candidate sees of its list: `above`, what stands above it; `mean_max`, the
            list's mean and maximum; `self_attention`, one transformer layer; `none`.
        context_heads: Heads of the context `above`.
        context_dim: Width of a head of the context `above`.
        rounds: How often the scores are refined by the context `above`.
        stop_gradient: The student's losses train the student alone, not the User Profile Network.
    """

    hidden_dims: tuple[int, ...] = (64, 32)
    context: Literal["above", "mean_max", "self_attention", "none"] = "above"
    context_heads: int = 4
    context_dim: int = 8
    rounds: int = 2
    stop_gradient: bool = True


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """Distillation from teacher to student.

    Args:
        source: What is distilled: `generated`, the order of the list that the teacher generates;
            `forced`, the policy head's distributions when it is fed the ideal list; `none` trains the
            student on labels alone.
        mode: `online` trains both in one step; `offline` trains the teacher and the profile network,
            freezes them (the profile network unless `student.stop_gradient` is off), then trains the student.
        weight: b, the loss's weight at the end of the ramp.
        ramp_steps: Steps over which the weight rises from 0.
        temperature: Of the softmax over soft relevance, when the source is `forced`.
    """

    source: Literal["none", "forced", "generated"] = "generated"
    mode: Literal["online", "offline"] = "online"
    weight: float = 1.0
    ramp_steps: int = 200
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """Embedding tables of the vocabularies.

    Args:
        kind: `table` is one row an id; `compositional` is the product of a quotient and a remainder row
            (QR trick), whose memory grows with the square root of the vocabulary.
        compositional_above: With `compositional`, vocabularies up to this size keep a full table.
        dropout_rate: Share of embeddings dropped whole in training, as if the value were missing.
        unknown_rate: Share of values taken for unknown in training, so that the row of the values that no
            vocabulary has learns what can be said of a new user or item.
    """

    kind: Literal["table", "compositional"] = "table"
    compositional_above: int = 100_000
    dropout_rate: float = 0.0
    unknown_rate: float = 0.01


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture.

    Args:
        embedding_dim: d, width of every embedding and hidden representation.
        dropout_rate: Share of hidden values dropped in training.
    """

    embedding_dim: int = 32
    dropout_rate: float = 0.1
    embedding: EmbeddingConfig = EmbeddingConfig()
    user_profile: UserProfileConfig = UserProfileConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()

    def __post_init__(self) -> None:
        _check_model(self)

    @classmethod
    def of(cls, value: ModelConfig | Mapping[str, Any] | None) -> ModelConfig:
        """The configuration that a layer's argument stands for: itself, JSON-ready data, or the default.

        Raises:
            InputError: A key is unknown or its value is impossible.
        """
        if isinstance(value, ModelConfig):
            return value
        return from_plain(cls, _merged(dataclasses.asdict(cls()), value or {}), "model")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the losses' sum.

    Args:
        value_weight: Of the teacher's value head on lists as they were shown.
        policy_weight: Of the teacher's policy head on the ideal list; 0 leaves its pass out.
        unlikelihood_weight: Of the policy head's unlikelihood on explicit negatives.
        listwise_weight: Of the student's listwise softmax on shown labels.
        pointwise_weight: Of the student's pointwise cross-entropy on shown labels.
    """

    value_weight: float = 1.0
    policy_weight: float = 0.0
    unlikelihood_weight: float = 0.1
    listwise_weight: float = 1.0
    pointwise_weight: float = 0.5


@dataclasses.dataclass(frozen=True)
class PSADConfig:
    """What the model is and what it minimizes, apart from how a run trains it.

    Args:
        model: Architecture.
        loss: Weights of the losses.
        distillation: From teacher to student.
        seed: Of the initial weights and of dropout.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig = DistillationConfig()
    seed: int = 1

    def __post_init__(self) -> None:
        _check_losses(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` gives an equal configuration back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any, where: str = "configuration") -> Self:
        """Reads decoded JSON; keys left out keep their defaults.

        Raises:
            InputError: A key is unknown or its value is impossible; the message names it.
        """
        try:
            return from_plain(cls, data, where)
        except InputError as error:
            message = str(error)
            raise InputError(message if message.startswith(where) else f"{where}: {message}") from None

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """This configuration with some keys replaced; nested mappings replace the keys that they name.

        Raises:
            InputError: As `from_dict`.

        >>> PSADConfig().changed({"model": {"teacher": {"slots": 6}}}).model.teacher.slots
        6
        """
        return self.from_dict(_merged(self.to_dict(), changes))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if nested else value
    return merged


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam, whose learning rate for the embedding tables is another.

    Args:
        learning_rate: Of the dense weights, after warm-up.
        embedding_learning_rate: Of the embedding tables.
        warmup_steps: Steps over which both rise linearly from 0.
        decay_steps: Step at which both have fallen to 0 along half a cosine; 0 keeps them constant.
        weight_decay: Decoupled, on dense kernels and embeddings.
        clip_norm: Largest global norm of the gradient.
    """

    learning_rate: float = 1e-3
    embedding_learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The input pipeline.

    Args:
        batch_size: Lists a step.
        list_sizes: Padded list sizes, ascending; a list goes to the smallest that holds it. Empty (the
            default) chooses up to four from the lengths of the training lists.
        long_lists: What happens to a training list longer than the largest of `list_sizes`: `error`, or
            `truncate`, which trains on its first candidates. Metrics always count whole lists.
        shuffle_buffer_mib: Memory of the shuffle buffer; a batch at least is held.
        cache: Keep decoded lists in memory after the first epoch, if they fit in `cache_mib`.
        cache_mib: Memory for them; larger data sets are read from the files again every epoch.
        users: Whose lists are read: `all`, or the half of the users whose id in the vocabulary is `even` or
            `odd`, so that one run can judge another that has seen none of its users.
    """

    batch_size: int = 64
    list_sizes: tuple[int, ...] = ()
    long_lists: Literal["error", "truncate"] = "error"
    shuffle_buffer_mib: int = 64
    cache: bool = True
    cache_mib: int = 2048
    users: Literal["all", "even", "odd"] = "all"


@dataclasses.dataclass(frozen=True)
class TrainConfig(PSADConfig):
    """One training run: what `PSADConfig` has, whose `seed` also shuffles, and how it is trained.

    Args:
        epochs: At most this many.
        patience: Epochs without a better validation NDCG@10 before stopping; 0 never stops.
        jit_compile: Compile the train step with XLA.
        distribution: `none`; `mirrored`, over this machine's GPUs or, without any, two logical CPU
            devices; or `multi_worker`, over the workers that the environment's TF_CONFIG names. The
            batch is shared out; the result is that of one worker with the whole batch.
        mixed_precision: Compute in float16 (with loss scaling) or bfloat16, keep weights in float32.
        max_loss: A loss above this stops the run as diverged, as one that is no finite number does.
        checkpoint_steps: Steps between checkpoints, besides one at the end of each epoch; 0 for none.
        keep_checkpoints: The last n kept, besides the best.
    """

    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    epochs: int = 20
    patience: int = 4
    jit_compile: bool = True
    distribution: Literal["none", "mirrored", "multi_worker"] = "none"
    mixed_precision: Literal["float32", "float16", "bfloat16"] = "float32"
    max_loss: float = 1e6
    checkpoint_steps: int = 0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_run(self)


def load_train_config(path: str | os.PathLike[str]) -> TrainConfig:
    """Reads a `TrainConfig` from a JSON file, or a preset by its name, such as `movielens`.

    Raises:
        InputError: The file is missing or wrong, or there is no such preset.
    """
    name = os.fspath(path)
    if not os.path.exists(name) and re.fullmatch(r"\w+", name):
        presets = importlib.resources.files("psad_tf.configs")
        names = sorted(
            entry.name.removesuffix(".json") for entry in presets.iterdir() if entry.name.endswith(".json")
        )
        if name not in names:
            raise InputError(f"{name}: no such file, and no such preset (there are: {', '.join(names)})")
        return TrainConfig.from_dict(json.loads((presets / f"{name}.json").read_text()), f"preset {name}")
    return TrainConfig.from_dict(load_json(path), name)


_Range = tuple[str, float, float, float]


def _check_ranges(*ranges: _Range) -> None:
    for key, value, low, high in ranges:
        if not low <= value <= high:
            raise InputError(f"{key}: {value} is not between {low:g} and {high:g}")


def _check_choices(config: Any, where: str = "") -> None:
    """Refuses a value that is none of its field's `Literal`."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), get_args(hints[field.name])
        if get_origin(hints[field.name]) is Literal and value not in allowed:
            raise InputError(f"{where}{field.name}: {value!r} is not one of {', '.join(map(repr, allowed))}")
        if dataclasses.is_dataclass(value):
            _check_choices(value, f"{where}{field.name}.")


def _check_model(model: ModelConfig) -> None:
    teacher, profile, student = model.teacher, model.user_profile, model.student
    _check_choices(model, "model.")
    _check_ranges(
        ("model.embedding_dim", model.embedding_dim, 1, 4096),
        ("model.dropout_rate", model.dropout_rate, 0.0, 0.95),
        ("model.embedding.dropout_rate", model.embedding.dropout_rate, 0.0, 0.95),
        ("model.embedding.unknown_rate", model.embedding.unknown_rate, 0.0, 0.95),
        ("model.embedding.compositional_above", model.embedding.compositional_above, 0, 1e12),
        ("model.user_profile.position_bases", profile.position_bases, 1, 1024),
        ("model.user_profile.short_term_length", profile.short_term_length, 1, 10_000),
        ("model.user_profile.cross_projection_dim", profile.cross_projection_dim, 0, 4096),
        ("model.teacher.slots", teacher.slots, 1, 1000),
        ("model.teacher.block_size", teacher.block_size, 1, teacher.slots),
        ("model.teacher.encoder_layers", teacher.encoder_layers, 0, 64),
        ("model.teacher.decoder_layers", teacher.decoder_layers, 0, 64),
        ("model.teacher.num_heads", teacher.num_heads, 1, model.embedding_dim),
        ("model.teacher.feed_forward_dim", teacher.feed_forward_dim, 1, 65_536),
        ("model.teacher.pair_heads", teacher.pair_heads, 1, 1024),
        ("model.teacher.pair_dim", teacher.pair_dim, 1, 4096),
        ("model.teacher.pair_hidden_dim", teacher.pair_hidden_dim, 1, 65_536),
        ("model.teacher.beam_width", teacher.beam_width, 1, 1000),
        ("model.student.context_heads", student.context_heads, 1, 1024),
        ("model.student.context_dim", student.context_dim, 1, 4096),
        ("model.student.rounds", student.rounds, 1, 16),
    )
    if model.embedding_dim % teacher.num_heads:
        raise InputError(
            f"model.teacher.num_heads: {teacher.num_heads} does not divide model.embedding_dim "
            f"{model.embedding_dim}"
        )
    if not student.hidden_dims or min(student.hidden_dims) < 1:
        raise InputError("model.student.hidden_dims: needs one positive width at least")


def _check_losses(config: PSADConfig) -> None:
    _check_choices(config)
    _check_ranges(
        *(
            (f"loss.{field.name}", getattr(config.loss, field.name), 0.0, 1e6)
            for field in dataclasses.fields(config.loss)
        ),
        ("distillation.temperature", config.distillation.temperature, 1e-3, 1e3),
        ("distillation.weight", config.distillation.weight, 0.0, 1e6),
        ("distillation.ramp_steps", config.distillation.ramp_steps, 0, 1e12),
        ("seed", config.seed, 0, 2**31 - 1),
    )
    if config.distillation.source == "forced" and config.loss.policy_weight == 0.0:
        raise InputError("distillation.source: forced distils the policy head; loss.policy_weight is 0")


def _check_run(config: TrainConfig) -> None:
    _check_ranges(
        ("optimizer.learning_rate", config.optimizer.learning_rate, 1e-12, 1e3),
        ("optimizer.embedding_learning_rate", config.optimizer.embedding_learning_rate, 1e-12, 1e3),
        ("optimizer.warmup_steps", config.optimizer.warmup_steps, 0, 1e12),
        ("optimizer.decay_steps", config.optimizer.decay_steps, 0, 1e12),
        ("optimizer.weight_decay", config.optimizer.weight_decay, 0.0, 1.0),
        ("optimizer.clip_norm", config.optimizer.clip_norm, 1e-6, 1e12),
        ("data.batch_size", config.data.batch_size, 1, 1_000_000),
        ("data.shuffle_buffer_mib", config.data.shuffle_buffer_mib, 1, 1_000_000),
        ("data.cache_mib", config.data.cache_mib, 0, 1_000_000_000),
        ("epochs", config.epochs, 1, 1_000_000),
        ("patience", config.patience, 0, 1_000_000),
        ("max_loss", config.max_loss, 1e-3, 1e30),
        ("checkpoint_steps", config.checkpoint_steps, 0, 1e12),
        ("keep_checkpoints", config.keep_checkpoints, 1, 10_000),
    )
    sizes = config.data.list_sizes
    if list(sizes) != sorted(set(sizes)) or any(size < 1 for size in sizes):
        raise InputError(f"data.list_sizes: {list(sizes)} is not a list of ascending positive sizes")
    slots = config.model.teacher.slots
    if sizes and sizes[0] < slots:
        raise InputError(
            f"data.list_sizes: {sizes[0]} is below model.teacher.slots, {slots}: every size must "
            "hold the slots; raise the size, lower slots, or leave list_sizes out"
        )
