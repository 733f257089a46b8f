"""Metrics: hand-computed cases, definitions by brute force, TensorFlow Ranking's Keras metrics, ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_ranking as tfr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, mannwhitneyu

from psad_tf.metrics import METRICS, kendall_agreement, mean_metrics, per_list_metrics, ranks


def test_hand_computed_list():
    # Ranked: labels 0, 2, 0, 1.
    values = per_list_metrics(np.array([[4.0, 3, 2, 1]]), np.array([[0.0, 2, 0, 1]]))
    dcg = 3 / np.log2(3) + 1 / np.log2(5)
    ideal = 3 + 1 / np.log2(3)
    assert values["ndcg@10"][0] == pytest.approx(dcg / ideal, rel=1e-5)
    assert values["map@10"][0] == pytest.approx((1 / 2 + 2 / 4) / 2, rel=1e-5)
    assert values["mrr"][0] == pytest.approx(0.5)
    assert values["auc"][0] == pytest.approx(0.25)


def test_lists_without_a_positive_are_left_out_of_the_mean():
    scores, labels = np.array([[2.0, 1], [2, 1]]), np.array([[1.0, 0], [0, 0]])
    values = per_list_metrics(scores, labels)
    assert np.isnan(values["ndcg@10"][1])
    assert mean_metrics(values)["ndcg@10"] == pytest.approx(1.0)


def test_padding_counts_for_nothing():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(5, 6)), rng.integers(0, 3, (5, 6)).astype(float)
    plain = per_list_metrics(scores, labels)
    more = per_list_metrics(
        np.pad(scores, [[0, 0], [0, 3]], constant_values=9.0),
        np.pad(labels, [[0, 0], [0, 3]], constant_values=2.0),
        where=np.pad(np.ones([5, 6], bool), [[0, 0], [0, 3]]),
    )
    for name in plain:
        np.testing.assert_allclose(plain[name], more[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("top", [5, 10])
def test_agrees_with_tensorflow_rankings_keras_metrics(top):
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(40, 14)), rng.integers(0, 3, (40, 14)).astype(float)
    labels[:, 0] = 1.0  # every list has a positive
    values = per_list_metrics(scores, labels)
    means, binary = mean_metrics(values), (labels >= 1).astype(float)
    ndcg, mrr = tfr.keras.metrics.NDCGMetric(topn=top), tfr.keras.metrics.MRRMetric()
    assert means[f"ndcg@{top}"] == pytest.approx(float(ndcg(labels, scores)), rel=1e-5)
    assert means["mrr"] == pytest.approx(float(mrr(binary, scores)), rel=1e-5)
    expected = [
        float(tfr.keras.metrics.MeanAveragePrecisionMetric(topn=top)(b[None], s[None]))
        for b, s in zip(binary, scores, strict=True)
    ]
    np.testing.assert_allclose(values[f"map@{top}"], expected, rtol=1e-5)


def test_auc_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(30, 12)), rng.integers(0, 3, (30, 12)).astype(float)
    labels[:, :2] = [0.0, 2.0]  # every list has both kinds
    expected = [
        mannwhitneyu(s[y >= 1], s[y < 1]).statistic / ((y >= 1).sum() * (y < 1).sum())
        for s, y in zip(scores, labels, strict=True)
    ]
    values = per_list_metrics(scores, labels)["auc"]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_kendall_agreement_is_scipys_tau():
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(20, 9)), rng.normal(size=(20, 9))
    expected = [kendalltau(a[:7], b[:7]).statistic for a, b in zip(one, other, strict=True)]
    where = np.tile(np.arange(9) < 7, (20, 1))
    np.testing.assert_allclose(kendall_agreement(one, other, where=where), expected, atol=1e-6)


def by_definition(scores: list[float], labels: list[float], librerank: bool = False) -> dict[str, float]:
    """The metrics of one list, in plain Python; a stable sort keeps the order of equal scores."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    ranked = [labels[i] for i in order]
    hits = [label >= 1 for label in ranked]
    positives, others = sum(hits), len(hits) - sum(hits)
    nothing = 0.0 if librerank else math.nan
    found = {"mrr": 1 / (hits.index(True) + 1) if positives else nothing}
    for top in (5, 10):
        gains = [(2**label - 1) / math.log2(place + 2) for place, label in enumerate(ranked[:top])]
        ideal = sorted(labels, reverse=True)[:top]
        best = sum((2**label - 1) / math.log2(place + 2) for place, label in enumerate(ideal))
        found[f"ndcg@{top}"] = sum(gains) / best if positives else nothing
        precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(min(top, len(hits))) if hits[r]]
        divisor = len(precisions) if librerank else positives
        found[f"map@{top}"] = sum(precisions) / divisor if divisor else nothing
    pairs = [(i, j) for i in range(len(hits)) for j in range(len(hits)) if hits[i] and not hits[j]]
    found["auc"] = sum(i < j for i, j in pairs) / (positives * others) if positives * others else math.nan
    return found


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 15),
    extra=st.integers(0, 4),
    levels=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    convention=st.sampled_from(["psad", "librerank"]),
)
def test_any_list_under_any_mask_and_with_any_ties_has_the_metrics_of_their_definitions(
    n, extra, levels, seed, convention
):
    rng = np.random.default_rng(seed)
    where = rng.permutation(np.arange(n + extra) < n)
    scores = rng.integers(0, levels, n + extra).astype(float)  # few levels: many equal scores
    labels = rng.integers(0, 3, n + extra).astype(float)
    values = per_list_metrics(scores[None], labels[None], where=where[None], convention=convention)
    expected = by_definition(list(scores[where]), list(labels[where]), convention == "librerank")
    assert values.keys() == expected.keys() == set(METRICS)
    for name, value in expected.items():
        assert values[name][0] == pytest.approx(value, rel=1e-5, nan_ok=True), name


def test_equal_scores_keep_the_initial_order_on_every_call():
    labels = np.random.default_rng(4).integers(0, 2, (50, 20)).astype(float)
    initial = per_list_metrics(-np.tile(np.arange(20.0), (50, 1)), labels)
    for _ in range(3):
        tied = per_list_metrics(np.zeros([50, 20]), labels)
        for name in METRICS:
            np.testing.assert_array_equal(tied[name], initial[name], err_msg=name)


def test_a_candidate_that_does_not_count_ranks_last_whatever_the_scores():
    scores = np.array([[-np.inf, np.finfo(np.float32).min, 9.0]], np.float32)
    assert ranks(scores, where=[[True, True, False]]).numpy().tolist() == [[2, 1, 3]]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_score_that_is_no_number_is_never_the_best(compiled):
    rank = tf.function(ranks, jit_compile=True) if compiled else ranks
    scores = tf.constant([[math.nan, 0.1, -math.inf, math.inf, math.nan]])
    assert rank(scores).numpy().tolist() == [[3, 2, 4, 1, 5]]
    found = per_list_metrics(np.float64([[math.nan, 0.1, 0.2]]), np.float64([[1.0, 0.0, 0.0]]))
    assert found["mrr"] == pytest.approx(1 / 3) and found["auc"] == 0.0


def test_a_compiled_graph_ranks_ties_as_eager_code_does():
    scores = np.random.default_rng(5).integers(0, 4, (30, 20)).astype(np.float32)
    where = np.random.default_rng(6).random((30, 20)) < 0.8
    compiled = tf.function(lambda: ranks(scores, where=where), jit_compile=True)
    np.testing.assert_array_equal(compiled(), ranks(scores, where=where))
