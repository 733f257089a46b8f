"""The library's ranking metrics as Keras metrics, the form in which TFMA takes metrics by list."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from psad_tf.metrics import METRICS, per_list_metrics

PADDING_LABEL = -1.0


class ListMetric(tf.keras.metrics.Mean):
    """Mean of one of `psad_tf.metrics.METRICS` over lists, each list counting once.

    TensorFlow Ranking's own Keras metrics count a list without a positive label as 0; here as in
    `psad evaluate` it is left out, so that the two report the same numbers.

    Args:
        metric: Which, `ndcg@10` for instance.
        gain: Take off the same metric of the initial order, the order in which the candidates stand.
        name: Under which it is reported.
        dtype: Of the sum.

    Example:
        >>> metric = ListMetric("ndcg@10", gain=True)
        >>> _ = metric.update_state([[0.0, 1.0, -1.0]], [[0.2, 0.9, 0.0]])
        >>> round(float(metric.result()), 4)  # 1 for the scores' order, 1 / log2(3) for the initial order
        0.3691
    """

    def __init__(self, metric: str, gain: bool = False, name: str | None = None, dtype: Any = None) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r}: is none of {', '.join(METRICS)}")
        super().__init__(name=name or metric.replace("@", "_"), dtype=dtype)
        self.metric = metric
        self.gain = gain

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Adds lists.

        Args:
            y_true: [lists, n] graded labels; -1 at padding.
            y_pred: [lists, n] scores.
            sample_weight: Not used: lists count equally.
        """
        labels, scores = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        values = tf.numpy_function(self._values, [labels, scores], tf.float32)
        counts = tf.math.is_finite(values)
        return super().update_state(tf.where(counts, values, 0.0), tf.cast(counts, tf.float32))

    def _values(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        mask = labels > PADDING_LABEL
        values = per_list_metrics(scores, labels, mask)[self.metric]
        if self.gain:
            positions = np.broadcast_to(np.arange(labels.shape[1]), labels.shape)
            values = values - per_list_metrics(-positions, labels, mask)[self.metric]
        return values.astype(np.float32)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "metric": self.metric, "gain": self.gain}
