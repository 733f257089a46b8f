"""A tiny feature declaration and random encoded batches, for tests of the model's parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from psad_tf.config import (
    LossConfig,
    ModelConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    UserProfileConfig,
)
from psad_tf.features import CategoricalFeature, DenseFeature, FeatureDeclaration, HistoryDeclaration
from psad_tf.models.psad import PSAD

SIZES = {"item_id": 40, "genre": 8, "user_id": 12}
HISTORY = 6

DECLARATION = FeatureDeclaration(
    context_categorical=(CategoricalFeature("user_id"),),
    context_dense=(DenseFeature("age"),),
    history=HistoryDeclaration(
        HISTORY,
        (CategoricalFeature("item_id"), CategoricalFeature("genre", width=2)),
        (DenseFeature("rating"),),
    ),
    candidate_categorical=(CategoricalFeature("item_id"), CategoricalFeature("genre", width=2)),
    candidate_dense=(DenseFeature("initial_score"), DenseFeature("popularity")),
    max_candidates=30,
)


def config(
    slots: int = 6, block_size: int = 2, dropout: float = 0.0, layers: int = 1, **changes: object
) -> TrainConfig:
    """A small configuration, with every term of the loss, that does not need XLA's compile time."""
    model = ModelConfig(
        embedding_dim=8,
        dropout_rate=dropout,
        teacher=TeacherConfig(
            slots=slots,
            block_size=block_size,
            encoder_layers=1,
            decoder_layers=layers,
            num_heads=2,
            feed_forward_dim=16,
            pair_heads=2,
            pair_dim=3,
            pair_hidden_dim=4,
        ),
        student=StudentConfig(hidden_dims=(8, 8), context_heads=2, context_dim=3),
        user_profile=UserProfileConfig(cross=True, position_bases=3, short_term_length=2),
    )
    settings = TrainConfig(model=model, loss=LossConfig(policy_weight=0.5), jit_compile=False)
    return dataclasses.replace(settings, **changes)


def smallest(slots: int = 6, dropout: float = 0.0, **changes: object) -> TrainConfig:
    """One block, no policy, no optional part: the least to trace, where the parts are not what is shown."""
    settings = config(slots, block_size=slots, dropout=dropout)
    model = dataclasses.replace(
        settings.model,
        teacher=dataclasses.replace(settings.model.teacher, pair_term=False),
        student=StudentConfig(hidden_dims=(8,), context_heads=2, context_dim=3, rounds=1),
        user_profile=UserProfileConfig(
            target_attention=False,
            history_match=False,
            relative_features=False,
            position_bases=3,
            short_term_length=2,
        ),
    )
    return dataclasses.replace(settings, **{"model": model, "loss": LossConfig(), **changes})


def model(settings: TrainConfig | None = None, seed: int = 3) -> PSAD:
    """A built model; its weights are larger than fresh ones, so that nothing is near zero."""
    tf.keras.utils.set_random_seed(seed)
    built = PSAD(DECLARATION, SIZES, settings or config())
    rng = np.random.default_rng(seed)
    for variable in built.trainable_variables:
        if "gamma" not in variable.name:
            scale = 0.04 if "slot_bias" in variable.name else 0.4  # ten times as much is added to logits
            variable.assign(rng.normal(scale=scale, size=variable.shape))
    return built


def batch(
    lists: int, candidates: int, seed: int = 0, shortest: int | None = None, shown: int | None = None
) -> dict[str, tf.Tensor]:
    """Random encoded lists of between `shortest` (default all) and `candidates` candidates.

    In random order, of which the first `shown` (default all) were shown.
    """
    rng = np.random.default_rng(seed)
    length = rng.integers(candidates if shortest is None else shortest, candidates + 1, (lists, 1))
    mask = np.arange(candidates)[None] < length
    past = np.arange(HISTORY)[None] < rng.integers(0, HISTORY + 1, (lists, 1))
    slots = np.argsort(np.argsort(np.where(mask, rng.random(mask.shape), 2.0)))
    slots = np.where(mask & (slots < (candidates if shown is None else shown)), slots, -1)
    labels = rng.integers(0, 3, (lists, candidates)) * (slots >= 0)
    arrays = {
        "user_id": rng.integers(1, SIZES["user_id"], (lists, 1)),
        "history_item_id": rng.integers(1, SIZES["item_id"], (lists, HISTORY, 1)) * past[..., None],
        "history_genre": rng.integers(0, SIZES["genre"], (lists, HISTORY, 2)) * past[..., None],
        "item_id": rng.integers(1, SIZES["item_id"], (lists, candidates, 1)) * mask[..., None],
        "genre": rng.integers(0, SIZES["genre"], (lists, candidates, 2)) * mask[..., None],
        "initial_rank": np.tile(np.arange(candidates), (lists, 1)),
        "context_dense": rng.normal(size=(lists, 1)),
        "history_dense": rng.normal(size=(lists, HISTORY, 1)) * past[..., None],
        "candidate_dense": rng.normal(size=(lists, candidates, 2)) * mask[..., None],
        "shown_position": slots,
        "labels": labels,
        "negatives": (labels == 0) * (slots >= 0) * (rng.random((lists, candidates)) < 0.3),
    }
    floats = {"context_dense", "history_dense", "candidate_dense", "labels", "negatives"}
    encoded = {
        key: tf.constant(value, tf.float32 if key in floats else tf.int32) for key, value in arrays.items()
    }
    return {**encoded, "mask": tf.constant(mask), "history_mask": tf.constant(past)}


CANDIDATE_KEYS = (
    "item_id", "genre", "initial_rank", "shown_position", "candidate_dense", "labels", "negatives", "mask",
)  # fmt: skip


def permuted(encoded: dict[str, tf.Tensor], order: np.ndarray) -> dict[str, tf.Tensor]:
    """The same lists with their candidates in another order."""
    return {
        key: tf.gather(value, order, axis=1) if key in CANDIDATE_KEYS else value
        for key, value in encoded.items()
    }


def padded(encoded: dict[str, tf.Tensor], extra: int) -> dict[str, tf.Tensor]:
    """The same lists with `extra` more padding candidates."""
    return {
        key: tf.pad(
            value,
            [[0, 0], [0, extra]] + [[0, 0]] * (value.shape.rank - 2),
            constant_values=-1 if key == "shown_position" else 0,
        )
        if key in CANDIDATE_KEYS
        else value
        for key, value in encoded.items()
    }
