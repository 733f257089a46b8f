"""Losses: hand-computed cases, masks, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from psad_tf import losses


def test_slot_targets_sum_to_one_at_filled_slots_and_zero_past_the_end():
    labels = tf.constant([[1.0, 0.0, 2.0, 0.0]])
    mask = tf.constant([[True, True, True, False]])
    order = losses.ideal_order(labels, tf.zeros([1, 4]), 4, where=mask)
    targets, weights = losses.slot_targets(
        labels, order, where=losses.slot_availability(order, 2, where=mask)
    )
    np.testing.assert_array_equal(order, [[2, 0, 1, -1]])
    np.testing.assert_allclose(tf.reduce_sum(targets, -1), [[1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(weights, [[1.0, 1 / np.log2(3), 0.0, 0.0]], rtol=1e-6)


def test_slots_past_the_relevant_candidates_teach_nothing_inside_a_block_either():
    labels, mask = tf.constant([[0.0, 1.0, 0.0, 0.0]]), tf.ones([1, 4], tf.bool)
    order = losses.ideal_order(labels, tf.zeros([1, 4]), 3, where=mask)
    _, weights = losses.slot_targets(labels, order, where=losses.slot_availability(order, 3, where=mask))
    np.testing.assert_array_equal(weights, [[1.0, 0.0, 0.0]])


def test_slot_cross_entropy_of_a_hand_computed_case():
    labels, mask, order = tf.constant([[1.0, 0.0]]), tf.ones([1, 2], tf.bool), tf.constant([[0, 1]])
    available = losses.slot_availability(order, 1, where=mask)
    targets, weights = losses.slot_targets(labels, order, where=available)
    logits = tf.constant([[[np.log(3.0), 0.0], [0.0, 0.0]]], tf.float32)
    loss = losses.slot_cross_entropy(logits, targets, where=available, weights=weights)
    assert float(loss) == pytest.approx(np.log(4 / 3), rel=1e-5)


def test_unlikelihood_counts_only_explicit_negatives():
    available = tf.ones([1, 1, 2], tf.bool)
    logits, weights = tf.zeros([1, 1, 2]), tf.ones([1, 1])
    some = losses.unlikelihood(logits, tf.constant([[0.0, 1.0]]), where=available, weights=weights)
    none = losses.unlikelihood(logits, tf.zeros([1, 2]), where=available, weights=weights)
    assert float(some) == pytest.approx(np.log(2.0), rel=1e-5)
    assert float(none) == 0.0


def test_distillation_is_zero_exactly_when_the_student_agrees():
    relevance, mask = tf.constant([[2.0, 0.5, 0.5, 9.0]]), tf.constant([[True, True, True, False]])
    agreeing = tf.constant([[5.0, 3.5, 3.5, 0.0]])
    assert float(losses.distillation_loss(agreeing, relevance, where=mask)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.distillation_loss(-agreeing, relevance, where=mask)) > 0.1


def test_distillation_of_a_hand_computed_case():
    relevance = tf.constant([[np.log(3.0), 0.0]], tf.float32)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert float(losses.distillation_loss(tf.zeros([1, 2]), relevance)) == pytest.approx(expected, rel=1e-5)


def test_distillation_sharpens_the_teacher_by_the_temperature():
    relevance = tf.constant([[np.log(3.0), 0.0]], tf.float32)
    expected = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)  # softmax(2 log 3, 0) = (9, 1) / 10
    assert float(losses.distillation_loss(tf.zeros([1, 2]), relevance, temperature=0.5)) == pytest.approx(
        expected, rel=1e-5
    )


def test_plackett_luce_of_a_hand_computed_case():
    scores, where = tf.constant([[1.0, 3.0, 2.0, 9.0]]), tf.constant([[True, True, True, False]])
    first = np.log(np.exp(1) + np.exp(3) + np.exp(2)) - 2.0
    second = np.log(np.exp(1) + np.exp(3)) - 1.0
    order = tf.constant([[2, 0, -1]])
    assert float(losses.plackett_luce_loss(scores, order, where=where)) == pytest.approx(
        (first + second) / 2, rel=1e-5
    )
    weighted = losses.plackett_luce_loss(scores, order, where=where, weights=tf.constant([3.0, 1.0, 5.0]))
    assert float(weighted) == pytest.approx((3 * first + second) / 4, rel=1e-5)
    assert float(losses.plackett_luce_loss(scores, tf.fill([1, 3], -1), where=where)) == 0.0


def test_shown_order_reads_slots_with_gaps():
    positions = tf.constant([[3, -1, 0, 5], [-1, -1, -1, -1]])
    np.testing.assert_array_equal(losses.shown_order(positions, 5), [[2, -1, -1, 0, -1], [-1] * 5])


def test_graded_labels_become_gains_on_the_declared_scale():
    np.testing.assert_allclose(losses.gains(tf.constant([0.0, 1.0, 3.0]), 3.0), [0.0, 1 / 7, 1.0], rtol=1e-6)


def test_the_shown_list_loss_is_least_at_the_mean_gain():
    gains, where = tf.constant([[1.0, 0.0, 0.5, 0.5]]), tf.ones([1, 4], tf.bool)
    at = {
        value: float(losses.shown_list_loss(tf.fill([1, 4], value), gains, where=where))
        for value in (0.4, 0.5, 0.6)
    }
    assert min(at, key=at.get) == 0.5


def test_pointwise_loss_of_a_hand_computed_case():
    loss = losses.pointwise_loss(
        tf.constant([[0.8, 0.4, 0.9]]),
        tf.constant([[2.0, 0.0, 1.0]]),
        where=tf.constant([[True, True, False]]),
    )
    assert float(loss) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2, rel=1e-5)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 8), slots=st.integers(1, 8), block=st.integers(1, 8))
def test_padding_changes_no_loss(seed, n, slots, block):
    rng = np.random.default_rng(seed)
    slots = min(slots, n)
    labels = tf.constant(rng.integers(0, 3, (2, n)), tf.float32)
    scores = tf.constant(rng.normal(size=(2, n)), tf.float32)
    relevance = tf.constant(rng.random((2, n)), tf.float32)
    logits = tf.constant(rng.normal(size=(2, slots, n)), tf.float32)
    mask = tf.ones([2, n], tf.bool)

    def every_loss(extra: int) -> list[float]:
        def pad(values: tf.Tensor) -> tf.Tensor:
            return tf.pad(values, [[0, 0]] * (values.shape.rank - 1) + [[0, extra]])

        order = losses.ideal_order(pad(labels), tf.zeros([2, n + extra]), slots, where=pad(mask))
        available = losses.slot_availability(order, block, where=pad(mask))
        targets, weights = losses.slot_targets(pad(labels), order, where=available)
        return [
            float(losses.slot_cross_entropy(pad(logits), targets, where=available, weights=weights)),
            float(losses.unlikelihood(pad(logits), pad(1.0 - labels), where=available, weights=weights)),
            float(losses.listwise_loss(pad(scores), pad(labels), where=pad(mask))),
            float(losses.pointwise_loss(pad(tf.sigmoid(scores)), pad(labels), where=pad(mask))),
            float(losses.distillation_loss(pad(scores), pad(relevance), where=pad(mask), temperature=0.5)),
            float(losses.plackett_luce_loss(pad(scores), order, where=pad(mask))),
        ]

    assert every_loss(3) == pytest.approx(every_loss(0), rel=1e-4, abs=1e-5)


def test_soft_relevance_has_mean_one_over_the_list():
    probabilities = tf.nn.softmax(tf.random.stateless_normal([3, 4, 6], seed=[0, 1]))
    mask = tf.constant([[True] * 6, [True] * 4 + [False] * 2, [False] * 6])
    relevance = losses.soft_relevance(probabilities, where=mask).numpy()
    assert relevance[0].mean() == pytest.approx(1.0, rel=1e-5)
    assert relevance[1, :4].mean() == pytest.approx(1.0, rel=1e-5)
    assert (relevance[~mask.numpy()] == 0).all()
