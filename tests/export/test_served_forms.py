"""The serving graph's own forms of encoder, profile network and student give what the Keras model gives."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.config import EmbeddingConfig, ModelConfig, StudentConfig, UserProfileConfig
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.export import served_layers
from psad_tf.export.served_features import _lookup_table, column_order
from psad_tf.export.served_layers import ServedLayers
from psad_tf.export.served_reranker import ServedReranker
from psad_tf.export.warmup import raw_tensors
from psad_tf.features import (
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
)
from psad_tf.models.student import Reranker
from psad_tf.training.run_folder import build
from tests.export.tiny_run import DECLARATION, VALUES, make_list

LISTS = [make_list(1), make_list(2, 9, 0), make_list(3, 1, 9), make_list(4, 12, 4)]

# A vocabulary in two widths and in all three parts, dense features in every order, two of one kind.
MIXED = dataclasses.replace(
    DECLARATION,
    context_categorical=(CategoricalFeature("favourite", "genres", width=2), CategoricalFeature("user_id")),
    candidate_categorical=(
        CategoricalFeature("item_id"),
        CategoricalFeature("genre", "genres"),
        CategoricalFeature("genres", width=2),
    ),
    candidate_dense=(
        DenseFeature("year", "none"),
        DenseFeature("clicks", "log1p_standardize"),
        DenseFeature("initial_score"),
        DenseFeature("views", "log1p_standardize"),
    ),
)
BARE = FeatureDeclaration(
    context_categorical=(),
    context_dense=(),
    history=HistoryDeclaration(length=4, dense=()),
    candidate_categorical=(CategoricalFeature("item_id"),),
    candidate_dense=(),
    max_candidates=12,
)
OFF = UserProfileConfig(
    personalized_gates=False,
    personalized_positions=False,
    target_attention=False,
    history_match=False,
    relative_features=False,
)
CASES = {
    "default": (DECLARATION, ModelConfig()),
    "mixed features": (MIXED, ModelConfig()),
    "bare features": (BARE, ModelConfig()),
    "parts off": (DECLARATION, ModelConfig(user_profile=OFF)),
    "cross": (DECLARATION, ModelConfig(user_profile=UserProfileConfig(cross=True))),
    "cross of low rank": (
        DECLARATION,
        ModelConfig(user_profile=UserProfileConfig(cross=True, cross_projection_dim=2)),
    ),
    "short term longer than the history": (
        DECLARATION,
        ModelConfig(user_profile=UserProfileConfig(short_term_length=9)),
    ),
    "compositional": (
        DECLARATION,
        ModelConfig(embedding=EmbeddingConfig(kind="compositional", compositional_above=5)),
    ),
    "one layer, one round": (
        DECLARATION,
        ModelConfig(student=StudentConfig(hidden_dims=(16,), rounds=1, context_heads=3, context_dim=2)),
    ),
    **{
        context: (DECLARATION, ModelConfig(student=StudentConfig(hidden_dims=(16, 8), context=context)))
        for context in ("mean_max", "self_attention", "none")
    },
}


def encoder_of(declaration: FeatureDeclaration, folder: pathlib.Path) -> FeatureEncoder:
    for name, values in VALUES.items():
        (folder / f"{name}.txt").write_text("".join(f"{value}\n" for value in values))
    return FeatureEncoder(
        declaration, folder, {key: {"mean": 0.5, "std": 2.0} for key in declaration.dense_keys}
    )


def model_of(encoder: FeatureEncoder, config: ModelConfig) -> Reranker:
    config = dataclasses.replace(config, embedding_dim=8)
    reranker = Reranker(encoder.declaration, encoder.vocabulary_sizes, config)
    build(reranker, encoder.declaration)
    rng = np.random.default_rng(1)
    for weight in reranker.weights:  # larger than fresh ones, biases too, so that nothing is near zero
        weight.assign(rng.normal(scale=0.25, size=weight.shape))
    return reranker


def with_gaps(declaration: FeatureDeclaration, seed: int = 3) -> dict[str, np.ndarray]:
    """Four lists of different lengths, one without a history, some values missing or far out."""
    rng = np.random.default_rng(seed)
    raw = raw_tensors(LISTS, declaration)
    for feature in declaration.candidate_dense:
        values = rng.normal(scale=3.0, size=raw[feature.name].shape)
        values[rng.random(values.shape) < 0.2] = np.nan
        if feature.transform != "none":
            values[0, 0] = np.inf
        raw[feature.name] = values.astype(np.float32)
    return raw


@pytest.mark.parametrize(
    ("case", "tables"),
    [*((case, "constants") for case in CASES), ("default", "variables"), ("compositional", "variables")],
)
def test_the_serving_form_gives_the_models_answers(
    case: str, tables: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tables == "variables":  # as large ones are
        monkeypatch.setattr(served_layers, "CONSTANT_TABLE_BYTES", 0)
    declaration, config = CASES[case]
    (tmp_path / "made").mkdir()
    encoder = encoder_of(declaration, tmp_path)
    reranker = model_of(encoder, config)
    raw = {name: tf.constant(values) for name, values in with_gaps(declaration).items()}
    blocked = tf.constant(np.random.default_rng(0).random(raw["initial_rank"].shape) < 0.2)
    encoded = encoder(raw)
    encoded["mask"] &= ~blocked
    expected = reranker(encoded)
    layers = ServedLayers(reranker)
    served = ServedReranker(encoder, reranker, layers, str(tmp_path / "made"))
    found = tf.function(served, autograph=False)(raw, tf.shape(blocked), blocked)
    candidates = blocked.shape[1]
    shown = [sorted(position for position in each if position < candidates) for each in found.shown.numpy()]
    assert shown == [list(np.flatnonzero(each)) for each in encoded["mask"]]
    largest = np.abs(expected["scores"])[encoded["mask"]].max()  # what float32 rounds is a share of it
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5 * max(1.0, largest), rtol=0)
    np.testing.assert_allclose(found.probabilities, expected["probabilities"], atol=1e-5)


def test_a_value_with_the_separator_in_it_and_an_empty_vocabulary_are_looked_up(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "some.txt").write_bytes("a\tb\nc d\né|\n".encode())
    (tmp_path / "none.txt").write_bytes(b"")
    table = _lookup_table(str(tmp_path / "some.txt"), str(tmp_path / "made"))
    values = tf.constant(["a\tb", "", "a", "c d", "é|", "0"])
    assert table.lookup(values).numpy().tolist() == [2, 0, 1, 3, 4, 1]
    empty = _lookup_table(str(tmp_path / "none.txt"), str(tmp_path / "made_of_none"))
    assert empty.lookup(tf.constant(["", "a"])).numpy().tolist() == [0, 1]


def test_logarithms_stand_first() -> None:
    assert column_order(MIXED.candidate_dense) == [1, 3, 0, 2]
