"""The mathematics of training: pure functions of tensors and masks.

`mask` is bool [batch, n], false at padding. Labels are float32 [batch, n], graded, 0 is irrelevant.
A *slot* is a place in the list that the teacher generates, counted from 0; K is the block size.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow_ranking.python import losses_impl

from psad_tf.layers.attention import LARGE_NEGATIVE, masked_softmax

_SMALLEST = 1e-9


def over_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over the replicas of `tf.distribute`; itself where there is one.

    Every mean below divides a replica's sum by the whole batch's count, so that summed gradients are
    those of one replica with the whole batch.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def discount(slots: int) -> tf.Tensor:
    """The DCG discount of each slot, 1 / log2(2 + l), float32 [slots].

    >>> [round(float(each), 4) for each in discount(3)]
    [1.0, 0.6309, 0.5]
    """
    return tf.math.log(2.0) / tf.math.log(2.0 + tf.range(slots, dtype=tf.float32))


def ideal_order(labels: tf.Tensor, mask: tf.Tensor, ties: tf.Tensor, slots: int) -> tf.Tensor:
    """The ideal list: labels descending, equal labels by `ties` descending.

    Args:
        labels: float32 [batch, n].
        mask: bool [batch, n].
        ties: float32 [batch, n] in [0, 1).
        slots: L, at most n.

    Returns:
        int32 [batch, L], the candidate at each slot; -1 past the end of a shorter list.

    >>> labels, mask = tf.constant([[0.0, 2.0, 1.0, 1.0]]), tf.constant([[True] * 4])
    >>> ideal_order(labels, mask, tf.constant([[0.0, 0.0, 0.1, 0.2]]), 3).numpy().tolist()
    [[1, 3, 2]]
    """
    keys = tf.where(mask, labels + ties, -1.0)
    order = tf.argsort(keys, axis=-1, direction="DESCENDING", stable=True)[:, :slots]
    length = tf.reduce_sum(tf.cast(mask, tf.int32), -1, keepdims=True)
    return tf.where(tf.range(slots) < length, tf.cast(order, tf.int32), -1)


def slot_availability(order: tf.Tensor, mask: tf.Tensor, block_size: int) -> tf.Tensor:
    """Which candidates are unchosen when a slot's block begins.

    A[l, i] = m_i and candidate i is at no slot of a block before l's.

    Args:
        order: int32 [batch, L], -1 for an empty slot.
        mask: bool [batch, n].
        block_size: K.

    Returns:
        bool [batch, L, n].
    """
    slots = order.shape[1]
    at_slot = tf.one_hot(order, tf.shape(mask)[1])  # [batch, L, n]
    taken = tf.cumsum(at_slot, axis=1, exclusive=True)  # before slot l
    block_start = tf.range(slots) // block_size * block_size
    return mask[:, tf.newaxis] & (tf.gather(taken, block_start, axis=1) < 0.5)


def slot_targets(labels: tf.Tensor, available: tf.Tensor, order: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What each slot should predict, and how much the slot tells.

    t[l, i] = 1 / |S_l| for i in S_l, S_l the available candidates whose label is that of the ideal
    list's candidate at l: equals are interchangeable, so that tie-breaking is not learnt.

    A slot weighs its DCG discount, or 0 where it tells nothing about what to place: every available
    candidate has the same label, or the ideal list has run out of relevant ones. A slot of the latter
    kind would learn to hold what is surest to be irrelevant, and in a block that also has slots for
    relevant candidates it would place the worst candidate ahead of doubtful ones.

    Args:
        labels: float32 [batch, n].
        available: bool [batch, L, n], from `slot_availability`.
        order: int32 [batch, L], the ideal list, -1 past its end.

    Returns:
        Targets float32 [batch, L, n], rows summing to 1 (0 past the end), and weights float32 [batch, L].

    >>> labels, mask = tf.constant([[1.0, 1.0, 0.0]]), tf.constant([[True] * 3])
    >>> order = tf.constant([[1, 0, 2]])
    >>> targets, weights = slot_targets(labels, slot_availability(order, mask, 1), order)
    >>> targets.numpy().tolist()
    [[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]
    >>> [round(float(each), 4) for each in weights[0]]
    [1.0, 0.6309, 0.0]
    """
    filled = order >= 0
    grades = tf.gather(labels, tf.maximum(order, 0), batch_dims=1)  # [batch, L]
    equals = available & (labels[:, tf.newaxis] == grades[..., tf.newaxis]) & filled[..., tf.newaxis]
    count = tf.reduce_sum(tf.cast(equals, tf.float32), -1)
    targets = tf.cast(equals, tf.float32) / tf.maximum(count, 1.0)[..., tf.newaxis]
    choice = count < tf.reduce_sum(tf.cast(available, tf.float32), -1)
    informative = filled & choice & (grades > 0.0)
    return targets, tf.cast(informative, tf.float32) * discount(order.shape[1])


def slot_cross_entropy(
    logits: tf.Tensor, available: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """The teacher's loss: cross-entropy against the ideal list, slot by slot.

    L = mean over lists of sum_l w_l (-sum_i t[l, i] log p[l, i]) / sum_l w_l, p = softmax over the
    available candidates; lists whose weights are all 0 are left out of the mean.

    Args:
        logits: float32 [batch, L, n].
        available: bool [batch, L, n].
        targets: float32 [batch, L, n].
        weights: float32 [batch, L].

    Returns:
        A float32 scalar.
    """
    masked = tf.where(available, logits, LARGE_NEGATIVE)
    log_probabilities = tf.nn.log_softmax(masked)
    losses = -tf.reduce_sum(tf.where(targets > 0.0, targets * log_probabilities, 0.0), -1)
    return _mean_of_lists(losses, weights)


def unlikelihood(
    logits: tf.Tensor, available: tf.Tensor, negatives: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Pushes explicit negatives out of the slots that still have better candidates.

    L = mean over lists of sum_l w_l (-sum_i neg_i log(1 - p[l, i])) / sum_l w_l.

    Args:
        logits: float32 [batch, L, n].
        available: bool [batch, L, n].
        negatives: float32 [batch, n], 1 for explicit negatives.
        weights: float32 [batch, L], from `slot_targets`.

    Returns:
        A float32 scalar.

    Reference: Welleck et al., "Neural Text Generation with Unlikelihood Training", ICLR 2020.
    """
    probabilities = masked_softmax(logits, available)
    terms = -tf.math.log(tf.maximum(1.0 - probabilities, 1e-6)) * negatives[:, tf.newaxis]
    return _mean_of_lists(tf.reduce_sum(terms, -1), weights)


def _mean_of_lists(losses: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(weights, -1)
    of_lists = tf.math.divide_no_nan(tf.reduce_sum(losses * weights, -1), total)
    return _mean(of_lists, total > 0.0)


def soft_relevance(probabilities: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The teacher's ranking as one number a candidate: its expected DCG discount.

    r_i = sum_l p[l, i] / log2(2 + l), scaled so that its mean over the list's candidates is 1.

    Args:
        probabilities: float32 [batch, L, n], of each candidate at each slot.
        mask: bool [batch, n].

    Returns:
        float32 [batch, n], 0 at padding.

    >>> r = soft_relevance(tf.constant([[[1.0, 0.0], [0.0, 1.0]]]), tf.constant([[True, True]]))
    >>> [round(float(each), 4) for each in r[0]]
    [1.2263, 0.7737]
    """
    present = tf.cast(mask, tf.float32)
    mass = tf.einsum("bln,l->bn", probabilities, discount(probabilities.shape[1])) * present
    mean = tf.reduce_sum(mass, -1, keepdims=True) / tf.maximum(tf.reduce_sum(present, -1, keepdims=True), 1.0)
    return tf.math.divide_no_nan(mass, mean)


def distillation_loss(
    scores: tf.Tensor, relevance: tf.Tensor, mask: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Listwise distillation: KL from the teacher's distribution over candidates to the student's.

    L = mean over lists of sum_i q_i (log q_i - log p_i), q = softmax(r / T), p = softmax(s), both over
    the list's candidates. r passes no gradient.

    Args:
        scores: The student's, float32 [batch, n].
        relevance: The teacher's, from `soft_relevance`, float32 [batch, n].
        mask: bool [batch, n].
        temperature: T; smaller follows the teacher's order more sharply.

    Returns:
        A float32 scalar, 0 when the two agree.
    """
    teacher = masked_softmax(tf.stop_gradient(relevance) / temperature, mask)
    log_student = tf.nn.log_softmax(tf.where(mask, scores, LARGE_NEGATIVE))
    log_teacher = tf.math.log(tf.maximum(teacher, _SMALLEST))
    divergence = tf.reduce_sum(tf.where(mask, teacher * (log_teacher - log_student), 0.0), -1)
    return _mean_of_nonempty(divergence, mask)


def pairwise_order_loss(scores: tf.Tensor, relevance: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Distills the teacher's order of pairs.

    L = mean over lists of sum_{i,j: r_i > r_j} (r_i - r_j) log(1 + exp(s_j - s_i))
        / sum_{i,j: r_i > r_j} (r_i - r_j). r passes no gradient.

    Args:
        scores: The student's, float32 [batch, n].
        relevance: The teacher's, from `soft_relevance`, float32 [batch, n].
        mask: bool [batch, n].

    Returns:
        A float32 scalar.
    """
    relevance = tf.stop_gradient(relevance)
    margins = tf.maximum(relevance[:, :, tf.newaxis] - relevance[:, tf.newaxis, :], 0.0)
    pairs = mask[:, :, tf.newaxis] & mask[:, tf.newaxis, :]
    margins = tf.where(pairs, margins, 0.0)
    differences = tf.where(pairs, scores[:, :, tf.newaxis] - scores[:, tf.newaxis, :], 0.0)
    losses = tf.reduce_sum(margins * tf.nn.softplus(-differences), [1, 2])
    return _mean_of_nonempty(tf.math.divide_no_nan(losses, tf.reduce_sum(margins, [1, 2])), mask)


def listwise_loss(scores: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The student's ranking loss: TensorFlow Ranking's softmax loss on gains 2^label - 1.

    L = mean over lists with a positive label of -sum_i g_i log softmax(s)_i / sum_i g_i.

    Args:
        scores: float32 [batch, n].
        labels: float32 [batch, n].
        mask: bool [batch, n].

    Returns:
        A float32 scalar.

    >>> scores, labels = tf.constant([[0.0, 0.0], [9.0, 9.0]]), tf.constant([[1.0, 0.0], [0.0, 0.0]])
    >>> round(float(listwise_loss(scores, labels, tf.constant([[True] * 2] * 2))), 4)
    0.6931
    """
    gains = tf.where(mask, tf.pow(2.0, labels) - 1.0, 0.0)
    loss = losses_impl.SoftmaxLoss(name="listwise")
    losses, total_gains = loss.compute_unreduced_loss(gains, scores, mask)  # [batch] each
    return _mean(losses, total_gains > 0.0)


def pointwise_loss(probabilities: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the probability that a candidate's label is 1 or more, the mean over candidates.

    Args:
        probabilities: float32 [batch, n].
        labels: float32 [batch, n].
        mask: bool [batch, n].

    Returns:
        A float32 scalar.
    """
    positive = tf.cast(labels >= 1.0, tf.float32)
    clipped = tf.clip_by_value(probabilities, 1e-6, 1.0 - 1e-6)
    losses = -positive * tf.math.log(clipped) - (1.0 - positive) * tf.math.log(1.0 - clipped)
    return _mean(losses, mask)


def ramp(step: tf.Tensor, steps: int) -> tf.Tensor:
    """The distillation weight's rise: min(1, (step + 1) / (steps + 1)), float32 scalar.

    It is above 0 from the first step, and 1 at once when `steps` is 0.
    """
    return tf.minimum(1.0, (tf.cast(step, tf.float32) + 1.0) / (steps + 1.0))


def _mean_of_nonempty(losses: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    return _mean(losses, tf.reduce_any(mask, -1))


def _mean(losses: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """Mean of the entries where `where` is true, 0 if there is none."""
    count = over_replicas(tf.reduce_sum(tf.cast(where, tf.float32)))
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(where, losses, 0.0)), count)
