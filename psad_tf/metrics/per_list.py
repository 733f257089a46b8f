"""The metrics that are reported: their names, a value per list, and their means."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import tensorflow as tf

from psad_tf.masking import everywhere
from psad_tf.metrics.auc import auc
from psad_tf.metrics.average_precision import average_precision
from psad_tf.metrics.ndcg import ndcg
from psad_tf.metrics.reciprocal_rank import reciprocal_rank

METRICS = ("ndcg@5", "ndcg@10", "map@5", "map@10", "mrr", "auc")
Convention = Literal["psad", "librerank"]
CONVENTIONS: tuple[Convention, ...] = ("psad", "librerank")
# LibRerank's numbers average over every list; its AUC is not one of a list.
_NOTHING_FOUND_IS_ZERO = frozenset({"ndcg@5", "ndcg@10", "map@5", "map@10", "mrr"})


def metric_function(name: str, convention: Convention = "psad") -> Callable[..., tf.Tensor]:
    """The function `(scores, labels, *, where) -> float32 [batch]` of a metric's name.

    Raises:
        ValueError: The name is none of `METRICS`.
    """
    kind, _, top = name.partition("@")
    if name not in METRICS:
        raise ValueError(f"metric {name!r}: is none of {', '.join(METRICS)}")
    if kind == "ndcg":
        return lambda scores, labels, where=None: ndcg(scores, labels, where=where, topn=int(top))
    if kind == "map":
        divide_by = "found" if convention == "librerank" else "positives"
        return lambda scores, labels, where=None: average_precision(
            scores,
            labels,
            where=where,
            topn=int(top),
            divide_by=divide_by,  # type: ignore[arg-type]
        )
    return {"mrr": reciprocal_rank, "auc": auc}[kind]


def per_list_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    where: np.ndarray | None = None,
    convention: Convention = "psad",
) -> dict[str, np.ndarray]:
    """Every metric of every list.

    Two conventions differ in what published tables differ in:

    - `psad`: MAP@k divides by all positives of a list, as TensorFlow Ranking does; a list without a
      positive has no value and is left out of the means.
    - `librerank`: MAP@k divides by the positives among the first k; a list without a positive counts as 0
      in every metric but AUC.

    Args:
        scores: [lists, n], higher is better; equal scores keep the candidates' order.
        labels: [lists, n], graded; 1 or more is positive.
        where: bool [lists, n], the candidates that count; None counts all.
        convention: `psad` or `librerank`.

    Returns:
        By name (`METRICS`), float64 [lists]; NaN where a list has no value.

    >>> one = per_list_metrics(np.array([[3.0, 2, 1]]), np.array([[0.0, 2, 0]]))
    >>> {name: round(float(value[0]), 4) for name, value in one.items()}
    {'ndcg@5': 0.6309, 'ndcg@10': 0.6309, 'map@5': 0.5, 'map@10': 0.5, 'mrr': 0.5, 'auc': 0.5}
    """
    arguments = np.asarray(scores, np.float64), np.asarray(labels, np.float32), everywhere(labels, where)
    found = _every_metric(convention)(*arguments)
    values = {name: value.numpy().astype(np.float64) for name, value in found.items()}
    if convention == "librerank":
        for name in _NOTHING_FOUND_IS_ZERO:
            values[name] = np.nan_to_num(values[name], nan=0.0)
    return values


@functools.cache
def _every_metric(convention: Convention) -> Callable[..., dict[str, tf.Tensor]]:
    """All metrics of `(scores, labels, where)` as one graph, a tenth of the time."""

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], dtype) for dtype in (tf.float64, tf.float32, tf.bool)],
        autograph=False,
    )
    def values(scores: tf.Tensor, labels: tf.Tensor, where: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: metric_function(name, convention)(scores, labels, where=where) for name in METRICS}

    return values


def mean_metrics(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each metric over the lists that have it; NaN where none has."""
    return {
        name: float(np.nanmean(each)) if np.isfinite(each).any() else np.nan for name, each in values.items()
    }
