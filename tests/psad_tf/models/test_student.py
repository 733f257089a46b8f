"""The student: equivariant to the order of candidates, blind to padding, linear cost, calibrated order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from psad_tf.config import ModelConfig, UserProfileConfig
from psad_tf.layers.above_context import AboveContext
from psad_tf.models.psad import PSAD
from tests import tiny


@pytest.fixture(scope="module")
def model() -> PSAD:
    return tiny.model()


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    lists=st.integers(1, 5), candidates=st.integers(1, 9), extra=st.integers(0, 4), seed=st.integers(0, 99)
)
def test_permutation_and_padding_move_scores_and_nothing_else(lists, candidates, extra, seed):
    model = _shared_model()
    batch = tiny.batch(lists, candidates, seed=seed, shortest=1)
    order = np.random.default_rng(seed).permutation(candidates + extra)
    plain = model(batch)
    moved = model(tiny.permuted(tiny.padded(batch, extra), order))
    for name in ("scores", "probabilities"):
        padding = -1e9 if name == "scores" else 0.0
        expected = np.pad(plain[name].numpy(), [[0, 0], [0, extra]], constant_values=padding)[:, order]
        # Sums over candidates round by the size of their terms, not of the score that comes out.
        scale = max(10.0, np.abs(expected, where=expected != padding, out=np.zeros_like(expected)).max())
        np.testing.assert_allclose(moved[name], expected, rtol=1e-5, atol=1e-6 * scale)


def _shared_model(cache: list[PSAD] = []) -> PSAD:  # noqa: B006
    if not cache:
        cache.append(tiny.model())
    return cache[0]


def test_probabilities_rise_with_scores_within_a_list(model):
    out = model(tiny.batch(8, 10, seed=1))
    scores, probabilities = out["scores"].numpy(), out["probabilities"].numpy()
    for row in range(8):
        assert (np.diff(probabilities[row][np.argsort(scores[row])]) >= -1e-6).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert np.unique(probabilities).size > 8


def test_an_empty_list_has_finite_scores(model):
    batch = tiny.batch(2, 4, seed=2)
    batch["mask"] = tf.zeros_like(batch["mask"])
    assert np.isfinite(model(batch)["scores"]).all()


def student_model(**changes: object) -> PSAD:
    settings_ = tiny.config()
    student = dataclasses.replace(settings_.model.student, **changes)
    profile = dataclasses.replace(settings_.model.user_profile, relative_features=False)
    return tiny.model(
        dataclasses.replace(
            settings_, model=dataclasses.replace(settings_.model, student=student, user_profile=profile)
        )
    )


@pytest.mark.parametrize("context", ["above", "mean_max", "self_attention", "none"])
def test_scores_depend_on_the_other_candidates_only_with_a_context(context):
    model = student_model(context=context)
    batch = tiny.batch(1, 6, seed=3)
    other = dict(batch)
    other["candidate_dense"] = tf.tensor_scatter_nd_add(batch["candidate_dense"], [[0, 5, 0]], [3.0])
    moved = np.abs(model(batch)["scores"] - model(other)["scores"])[0, :5].max()
    assert moved == 0.0 if context == "none" else moved > 1e-5


@pytest.mark.parametrize("context", ["above", "mean_max", "self_attention", "none"])
def test_every_context_is_blind_to_padding_and_order(context):
    model = student_model(context=context)
    batch, order = tiny.batch(3, 6, seed=4, shortest=3), np.random.default_rng(0).permutation(8)
    plain = np.pad(model(batch)["scores"], [[0, 0], [0, 2]], constant_values=-1e9)
    moved = model(tiny.permuted(tiny.padded(batch, 2), order))["scores"]
    np.testing.assert_allclose(moved, plain[:, order], rtol=1e-4, atol=1e-4)


def test_the_context_above_is_what_a_loop_over_pairs_gives():
    layer = AboveContext(num_heads=2, head_dim=3)
    items, scores = tf.random.stateless_normal([1, 4, 5], [1, 2]), tf.constant([[0.3, -1.0, 2.0, 0.0]])
    mask = tf.constant([[True, True, True, False]])
    found = layer(scores, layer.factors(items), mask).numpy()[0]
    sources, targets = (np.array(part(items))[0].reshape(4, 2, 3) for part in (layer.source, layer.target))
    sharpness = np.log1p(np.exp(float(layer.sharpness)))
    for i in range(4):
        for head in range(2):
            expected = sum(
                sources[j, head]
                @ targets[i, head]
                / np.sqrt(3.0)
                / (1.0 + np.exp(-sharpness * float(scores[0, j] - scores[0, i])))
                for j in range(3)
                if j != i
            )
            assert found[i, head] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def parameters(model: PSAD) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.reranker.variables)


@pytest.mark.parametrize(
    "part",
    [
        "personalized_gates",
        "personalized_positions",
        "target_attention",
        "cross",
        "history_match",
        "relative_features",
    ],
)
def test_each_part_of_the_profile_network_can_be_switched_off_alone(part, model):
    settings_ = tiny.config()
    profile = dataclasses.replace(settings_.model.user_profile, **{part: False})
    assert isinstance(settings_.model, ModelConfig) and isinstance(profile, UserProfileConfig)
    without = tiny.model(
        dataclasses.replace(settings_, model=dataclasses.replace(settings_.model, user_profile=profile))
    )
    assert parameters(without) < parameters(model)
    scores = without(tiny.batch(2, 5))["scores"]
    assert np.isfinite(scores).all()
