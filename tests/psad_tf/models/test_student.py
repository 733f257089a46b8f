"""The student: equivariant to the order of candidates, blind to padding, linear cost, calibrated order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from psad_tf.config import ModelConfig, StudentConfig, UserProfileConfig
from psad_tf.models.psad import PSAD
from tests import tiny


@pytest.fixture(scope="module")
def model() -> PSAD:
    return tiny.model()


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


def test_scores_depend_on_the_other_candidates_only_with_list_context(model):
    batch = tiny.batch(1, 6, seed=3)
    other = dict(batch)
    other["candidate_dense"] = tf.tensor_scatter_nd_add(batch["candidate_dense"], [[0, 5, 0]], [3.0])
    assert np.abs(model(batch)["scores"] - model(other)["scores"])[0, :5].max() > 1e-5
    plain_config = tiny.config()
    alone = dataclasses.replace(
        plain_config.model,
        student=StudentConfig(hidden_dims=(8,), list_context=False),
        user_profile=dataclasses.replace(plain_config.model.user_profile, relative_features=False),
    )
    plain = tiny.model(dataclasses.replace(plain_config, model=alone))
    np.testing.assert_array_equal(plain(batch)["scores"][0, :5], plain(other)["scores"][0, :5])


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
