"""Assignments inside a block: legal, and the exact one as good as scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from psad_tf.decoding.assignment import exact_assignment, greedy_assignment


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 5), n=st.integers(1, 7))
def test_assignments_are_legal_and_the_exact_one_is_the_best(seed, k, n):
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=(3, k, n)) * 5).astype(np.float32)
    available, open_slots = rng.random((3, n)) < 0.7, rng.random((3, k)) < 0.8
    greedy = greedy_assignment(scores, available, open_slots).numpy()
    exact = exact_assignment(scores, available, open_slots).numpy()
    for row in range(3):
        slots, columns = np.flatnonzero(open_slots[row]), np.flatnonzero(available[row])
        totals = []
        for picks in (greedy[row], exact[row]):
            pairs = [(slot, pick) for slot, pick in enumerate(picks) if pick >= 0]
            assert len(pairs) == min(len(slots), len(columns))
            assert len({pick for _, pick in pairs}) == len(pairs)
            assert all(open_slots[row, slot] and available[row, pick] for slot, pick in pairs)
            totals.append(sum(scores[row, slot, pick] for slot, pick in pairs))
        part = scores[row][np.ix_(slots, columns)]
        best = part[linear_sum_assignment(-part)].sum() if part.size else 0.0
        assert abs(totals[1] - best) < 1e-3
        assert totals[0] <= totals[1] + 1e-3


def test_greedy_lets_the_slot_that_wants_a_candidate_most_have_it():
    scores = np.array([[[0.9, 0.8], [0.95, 0.1]]], np.float32)
    everything = np.ones([1, 2], bool)
    np.testing.assert_array_equal(greedy_assignment(scores, everything, everything), [[1, 0]])
