"""Ranking metrics of lists: TensorFlow Ranking's, one value a list, so that models compare in pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow_ranking.python import metrics_impl

METRICS = ("ndcg@5", "ndcg@10", "map@5", "map@10", "mrr", "auc")


def per_list_metrics(scores: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of every list.

    NDCG@k has gain 2^label - 1 and discount 1/log2(1 + rank). MAP@k, MRR and AUC take labels of 1 or
    more as positive. AUC is the share of (positive, other) pairs in the right order, ties counting half.

    Args:
        scores: [lists, n], higher is better.
        labels: [lists, n], graded.
        mask: bool [lists, n], false at padding.

    Returns:
        By name (`METRICS`), float64 [lists]; NaN for a list without a positive label, and for the AUC
        of a list without any other.

    >>> one = per_list_metrics(np.array([[3.0, 2, 1]]), np.array([[0.0, 2, 0]]), np.ones([1, 3], bool))
    >>> {name: round(float(value[0]), 4) for name, value in one.items()}
    {'ndcg@5': 0.6309, 'ndcg@10': 0.6309, 'map@5': 0.5, 'map@10': 0.5, 'mrr': 0.5, 'auc': 0.5}
    """
    predictions = tf.constant(np.where(mask, scores, np.min(scores, initial=0.0) - 1.0), tf.float32)
    graded = tf.constant(np.where(mask, labels, 0.0), tf.float32)
    binary = tf.cast(graded >= 1.0, tf.float32)
    where = tf.constant(mask)
    has_positive = np.asarray(np.any((labels >= 1.0) & mask, axis=-1))
    computed: dict[str, np.ndarray] = {}
    for top in (5, 10):
        computed[f"ndcg@{top}"] = _compute(metrics_impl.NDCGMetric("ndcg", top), graded, predictions, where)
        computed[f"map@{top}"] = _compute(
            metrics_impl.MeanAveragePrecisionMetric("map", top), binary, predictions, where
        )
    computed["mrr"] = _compute(metrics_impl.MRRMetric("mrr", None), binary, predictions, where)
    computed["auc"] = _auc(np.asarray(scores, np.float64), (labels >= 1.0) & mask, (labels < 1.0) & mask)
    return {name: np.where(has_positive, computed[name], np.nan) for name in METRICS}


def kendall_agreement(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How alike two models order each list: Kendall's tau, (agreeing - disagreeing pairs) / pairs.

    Args:
        one: Scores of one model, [lists, n].
        other: Scores of the other, [lists, n].
        mask: bool [lists, n].

    Returns:
        float64 [lists], 1 for the same order, -1 for the reverse; NaN for lists of fewer than two.

    >>> kendall_agreement(np.array([[3.0, 2, 1]]), np.array([[3.0, 1, 2]]), np.ones([1, 3], bool)).round(4)
    array([0.3333])
    """
    pairs = mask[:, :, None] & mask[:, None, :] & ~np.eye(mask.shape[1], dtype=bool)
    signs = np.sign(one[:, :, None] - one[:, None, :]) * np.sign(other[:, :, None] - other[:, None, :])
    count = pairs.sum((1, 2))
    return np.where(count > 0, (signs * pairs).sum((1, 2)) / np.maximum(count, 1), np.nan)


def mean_metrics(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each metric over the lists that have it."""
    return {name: float(np.nanmean(each)) if len(each) else float("nan") for name, each in values.items()}


def _compute(metric: object, labels: tf.Tensor, predictions: tf.Tensor, mask: tf.Tensor) -> np.ndarray:
    value, _ = metric.compute(labels, predictions, None, mask=mask)  # type: ignore[attr-defined]
    return np.asarray(value, np.float64).reshape(-1)


def _auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    pairs = positive[:, :, None] & negative[:, None, :]
    difference = scores[:, :, None] - scores[:, None, :]
    won = np.where(difference > 0, 1.0, np.where(difference == 0, 0.5, 0.0))
    count = pairs.sum((1, 2))
    return np.where(count > 0, (won * pairs).sum((1, 2)) / np.maximum(count, 1), np.nan)
