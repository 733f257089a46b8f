"""The self-normalized estimate on a log whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from psad_tf.errors import InputError
from psad_tf.evaluation.off_policy import self_normalized_value


def _log(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions, rewards and logging probabilities of a policy that prefers the worse of four actions."""
    random = np.random.default_rng(seed)
    policy = np.array([0.55, 0.25, 0.15, 0.05])
    actions = random.choice(4, rows, p=policy)
    rewards = random.random(rows) < np.array([0.05, 0.1, 0.2, 0.4])[actions]
    return actions, rewards.astype(float), policy[actions]


def test_the_estimate_finds_what_a_policy_that_is_rarely_logged_earns():
    actions, rewards, logged = _log(200_000)
    estimate = self_normalized_value(rewards, logged, (actions == 3).astype(float))
    assert estimate.low < 0.4 < estimate.high
    assert estimate.high - estimate.low < 0.03
    assert estimate.matched == (actions == 3).sum() == pytest.approx(estimate.effective_size)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth = np.array([0.25, 0.25, 0.25, 0.25]) @ np.array([0.05, 0.1, 0.2, 0.4])
    covered = 0
    for seed in range(200):
        _, rewards, logged = _log(4000, seed)
        estimate = self_normalized_value(rewards, logged, np.full(4000, 0.25))
        covered += estimate.low < truth < estimate.high
    assert 0.9 <= covered / 200 <= 0.99


def test_the_logging_policy_itself_is_worth_its_mean_reward():
    _, rewards, logged = _log(500)
    estimate = self_normalized_value(rewards, logged, logged)
    assert estimate.value == pytest.approx(rewards.mean())
    assert estimate.effective_size == pytest.approx(500)


@pytest.mark.parametrize(
    ("logged", "chosen", "message"),
    [
        ([0.0, 0.5], [1.0, 1.0], "logging probability"),
        ([0.5, 0.5], [1.0, 1.5], "policy's probability"),
        ([0.5, 0.5], [0.0, 0.0], "none of the logged choices"),
        ([0.5], [1.0], "differ in number"),
    ],
)
def test_impossible_probabilities_are_refused(logged, chosen, message):
    with pytest.raises(InputError, match=message):
        self_normalized_value(np.ones(2), np.array(logged), np.array(chosen))
