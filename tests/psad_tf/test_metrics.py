"""Metrics: hand-computed cases and agreement with TensorFlow Ranking's Keras metrics."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_ranking as tfr

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


def test_agrees_with_tensorflow_rankings_keras_metrics():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(40, 9)), rng.integers(0, 3, (40, 9)).astype(float)
    labels[:, 0] = 1.0  # every list has a positive
    means = mean_metrics(per_list_metrics(scores, labels, np.ones([40, 9], bool)))
    binary = (labels >= 1).astype(float)
    assert means["ndcg@5"] == pytest.approx(
        float(tfr.keras.metrics.NDCGMetric(topn=5)(labels, scores)), rel=1e-5
    )
    assert means["mrr"] == pytest.approx(float(tfr.keras.metrics.MRRMetric()(binary, scores)), rel=1e-5)
    per_list = per_list_metrics(scores, binary, np.ones([40, 9], bool))["map@5"]
    expected = [
        float(tfr.keras.metrics.MeanAveragePrecisionMetric(topn=5)(b[None], s[None]))
        for b, s in zip(binary, scores, strict=True)
    ]
    np.testing.assert_allclose(per_list, expected, rtol=1e-5)
