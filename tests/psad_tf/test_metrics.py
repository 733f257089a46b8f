"""Metrics: hand-computed cases and agreement with TensorFlow Ranking's Keras metrics."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_ranking as tfr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from psad_tf.metrics import mean_metrics, per_list_metrics


def test_hand_computed_list():
    # Ranked: labels 0, 2, 0, 1.
    values = per_list_metrics(np.array([[4.0, 3, 2, 1]]), np.array([[0.0, 2, 0, 1]]), np.ones([1, 4], bool))
    dcg = 3 / np.log2(3) + 1 / np.log2(5)
    ideal = 3 + 1 / np.log2(3)
    assert values["ndcg@10"][0] == pytest.approx(dcg / ideal, rel=1e-5)
    assert values["map@10"][0] == pytest.approx((1 / 2 + 2 / 4) / 2, rel=1e-5)
    assert values["mrr"][0] == pytest.approx(0.5)
    assert values["auc"][0] == pytest.approx(0.25)


def test_lists_without_a_positive_are_left_out_of_the_mean():
    scores, labels = np.array([[2.0, 1], [2, 1]]), np.array([[1.0, 0], [0, 0]])
    values = per_list_metrics(scores, labels, np.ones([2, 2], bool))
    assert np.isnan(values["ndcg@10"][1])
    assert mean_metrics(values)["ndcg@10"] == pytest.approx(1.0)


def test_padding_counts_for_nothing():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(5, 6)), rng.integers(0, 3, (5, 6)).astype(float)
    plain = per_list_metrics(scores, labels, np.ones([5, 6], bool))
    more = per_list_metrics(
        np.pad(scores, [[0, 0], [0, 3]], constant_values=9.0),
        np.pad(labels, [[0, 0], [0, 3]], constant_values=2.0),
        np.pad(np.ones([5, 6], bool), [[0, 0], [0, 3]]),
    )
    for name in plain:
        np.testing.assert_allclose(plain[name], more[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("top", [5, 10])
def test_agrees_with_tensorflow_rankings_keras_metrics(top):
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(40, 14)), rng.integers(0, 3, (40, 14)).astype(float)
    labels[:, 0] = 1.0  # every list has a positive
    values = per_list_metrics(scores, labels, np.ones([40, 14], bool))
    means, binary = mean_metrics(values), (labels >= 1).astype(float)
    ndcg, mrr = tfr.keras.metrics.NDCGMetric(topn=top), tfr.keras.metrics.MRRMetric()
    assert means[f"ndcg@{top}"] == pytest.approx(float(ndcg(labels, scores)), rel=1e-5)
    assert means["mrr"] == pytest.approx(float(mrr(binary, scores)), rel=1e-5)
    expected = [
        float(tfr.keras.metrics.MeanAveragePrecisionMetric(topn=top)(b[None], s[None]))
        for b, s in zip(binary, scores, strict=True)
    ]
    np.testing.assert_allclose(values[f"map@{top}"], expected, rtol=1e-5)


def test_auc_is_the_mann_whitney_statistic_with_ties():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 5, (30, 12)).astype(float), rng.integers(0, 3, (30, 12)).astype(float)
    labels[:, :2] = [0.0, 2.0]  # every list has both kinds
    expected = [
        mannwhitneyu(s[y >= 1], s[y < 1]).statistic / ((y >= 1).sum() * (y < 1).sum())
        for s, y in zip(scores, labels, strict=True)
    ]
    np.testing.assert_allclose(per_list_metrics(scores, labels, np.ones([30, 12], bool))["auc"], expected)


def by_definition(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of one list without padding and without ties, from their definitions."""
    ranked = labels[np.argsort(-scores)]
    discounts = 1 / np.log2(np.arange(len(ranked)) + 2)
    relevant = ranked >= 1
    found = {"mrr": 1 / (np.argmax(relevant) + 1)}
    for top in (5, 10):
        dcg = ((2**ranked - 1) * discounts)[:top].sum()
        found[f"ndcg@{top}"] = dcg / ((2 ** np.sort(labels)[::-1] - 1) * discounts)[:top].sum()
        precision = np.cumsum(relevant) / np.arange(1, len(ranked) + 1)
        found[f"map@{top}"] = (precision * relevant)[:top].sum() / relevant.sum()
    return found


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 15), extra=st.integers(0, 4), seed=st.integers(0, 10_000))
def test_any_list_under_any_mask_has_the_metrics_of_their_definitions(n, extra, seed):
    rng = np.random.default_rng(seed)
    mask = rng.permutation(np.arange(n + extra) < n)
    scores, labels = rng.normal(size=n + extra) * 3, rng.integers(0, 3, n + extra).astype(float)
    labels[np.argmax(mask)] = 1.0
    values = per_list_metrics(scores[None], labels[None], mask[None])
    for name, expected in by_definition(scores[mask], labels[mask]).items():
        assert values[name][0] == pytest.approx(expected, rel=1e-5), name
