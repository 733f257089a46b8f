"""Listwise distillation from soft relevance."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.losses.reduction import mean
from psad_tf.masking import LARGE_NEGATIVE, everywhere, masked_softmax

_SMALLEST = 1e-9


def distillation_loss(
    scores: tf.Tensor,
    relevance: tf.Tensor,
    *,
    where: tf.Tensor | None = None,
    temperature: float = 1.0,
) -> tf.Tensor:
    """Listwise distillation: KL from the teacher's distribution over candidates to the student's.

    L = mean over lists of sum_i q_i (log q_i - log p_i), q = softmax(r / T), p = softmax(s), both over
    the list's candidates. r passes no gradient.

    Args:
        scores: The student's, float32 [batch, n].
        relevance: The teacher's, from `soft_relevance`, float32 [batch, n].
        where: bool [batch, n], the candidates that count; None counts all.
        temperature: T; smaller follows the teacher's order more sharply.

    Returns:
        A float32 scalar, 0 when the two agree.

    >>> round(float(distillation_loss(tf.constant([[0.0, 0.0]]), tf.constant([[1.0, 0.0]]))), 4)
    0.1109
    """
    where = everywhere(scores, where)
    teacher = masked_softmax(tf.stop_gradient(relevance) / temperature, where)
    log_student = tf.nn.log_softmax(tf.where(where, scores, LARGE_NEGATIVE))
    log_teacher = tf.math.log(tf.maximum(teacher, _SMALLEST))
    divergence = tf.reduce_sum(tf.where(where, teacher * (log_teacher - log_student), 0.0), -1)
    return mean(divergence, where=tf.reduce_any(where, -1))
