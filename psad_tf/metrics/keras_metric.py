"""The ranking metrics as Keras metrics."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from psad_tf.metrics.per_list import metric_function


@tf.keras.utils.register_keras_serializable("psad_tf")
class RankingMetric(tf.keras.metrics.Mean):
    """Mean of one of `METRICS` over the lists that have a value, each list counting once.

    TensorFlow Ranking's own Keras metrics count a list without a positive label as 0 and break ties at
    random; here such a list is left out, and equal scores keep the candidates' order.

    Args:
        metric: Which, `ndcg@10` for instance.
        name: Under which it is reported; None takes the metric's, with `_` for `@`.
        dtype: Of the sum.

    Raises:
        ValueError: `metric` is none of `METRICS`.

    >>> metric = RankingMetric("mrr")
    >>> _ = metric.update_state([[0.0, 1.0], [0.0, 0.0]], [[0.9, 0.2], [0.9, 0.2]])
    >>> float(metric.result())
    0.5
    """

    def __init__(self, metric: str, name: str | None = None, dtype: Any = None) -> None:
        self._function = metric_function(metric)
        super().__init__(name=name or metric.replace("@", "_"), dtype=dtype)
        self.metric = metric

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Adds lists.

        Args:
            y_true: [batch, n] graded labels; below 0 at candidates that do not count, padding for instance.
            y_pred: [batch, n] scores.
            sample_weight: [batch], a list's weight; None weighs them equally.
        """
        labels = tf.cast(y_true, tf.float32)
        values = self.list_values(labels, tf.cast(y_pred, tf.float32), labels >= 0.0)
        counts = tf.math.is_finite(values)
        weights = tf.cast(counts, tf.float32)
        if sample_weight is not None:
            weights *= tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        return super().update_state(tf.where(counts, values, 0.0), weights)

    def list_values(self, labels: tf.Tensor, scores: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
        """The value of each list, float32 [batch], NaN where a list has none."""
        return self._function(scores, labels, where=where)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "metric": self.metric}
