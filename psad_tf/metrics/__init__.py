"""Ranking metrics: pure functions of scores, labels and a mask; thin Keras metrics over them.

Every metric ranks by `ranks`, which has the one rule for ties: equal scores keep the candidates' order.
"""

from psad_tf.metrics.auc import auc
from psad_tf.metrics.average_precision import average_precision
from psad_tf.metrics.kendall import kendall_agreement
from psad_tf.metrics.keras_metric import RankingMetric
from psad_tf.metrics.ndcg import ndcg
from psad_tf.metrics.per_list import CONVENTIONS, METRICS, Convention, mean_metrics, per_list_metrics
from psad_tf.metrics.ranks import ranks
from psad_tf.metrics.reciprocal_rank import reciprocal_rank

__all__ = [
    "CONVENTIONS",
    "METRICS",
    "Convention",
    "RankingMetric",
    "auc",
    "average_precision",
    "kendall_agreement",
    "mean_metrics",
    "ndcg",
    "per_list_metrics",
    "ranks",
    "reciprocal_rank",
]
