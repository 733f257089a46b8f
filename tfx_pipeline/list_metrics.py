"""The library's ranking metrics in the form in which TFMA takes metrics by list."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from psad_tf.metrics import RankingMetric

PADDING_LABEL = -1.0


class ListMetric(RankingMetric):
    """`RankingMetric`, or how far it lies above that of the initial order.

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
        super().__init__(metric, name, dtype)
        self.gain = gain

    def list_values(self, labels: tf.Tensor, scores: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
        """The value of each list; equal scores keep the candidates' order, the initial one."""
        values = super().list_values(labels, scores, where)
        if self.gain:
            values -= super().list_values(labels, tf.zeros_like(scores), where)
        return values

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "gain": self.gain}
