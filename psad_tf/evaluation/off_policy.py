"""What another policy would have earned, from logs that say how likely each choice was."""

from __future__ import annotations

import dataclasses

import numpy as np

from psad_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class OffPolicyValue:
    """An estimate with how much of the log it rests on.

    Attributes:
        value: Mean reward under the evaluated policy.
        low: Lower end of the 95 % interval (normal approximation, delta method).
        high: Upper end.
        effective_size: (sum w)^2 / sum w^2, the size of a log of the evaluated policy itself that would
            tell as much.
        matched: Logged choices that the evaluated policy could have made.
    """

    value: float
    low: float
    high: float
    effective_size: float
    matched: int


def self_normalized_value(
    rewards: np.ndarray, logging_probabilities: np.ndarray, policy_probabilities: np.ndarray
) -> OffPolicyValue:
    """The self-normalized inverse-propensity estimate of a policy's mean reward.

    V = sum_n w_n r_n / sum_n w_n,    w_n = pi(a_n | x_n, slot_n) / p_n

    with r_n the logged reward, p_n the probability with which the logging policy chose the item shown, and pi
    that of the evaluated policy: 1 or 0 for a ranker, which puts one item in a slot. Its standard error is
    sqrt(sum_n w_n^2 (r_n - V)^2) / sum_n w_n. Dividing by the weights' sum instead of their number costs a
    bias that vanishes as the log grows and saves most of the variance of rare choices.

    Args:
        rewards: float [rows].
        logging_probabilities: float [rows], in (0, 1].
        policy_probabilities: float [rows], in [0, 1].

    Raises:
        InputError: A probability is impossible, or the policy makes none of the logged choices.

    Reference: Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NIPS
    2015.

    >>> estimate = self_normalized_value(
    ...     np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.25, 0.5, 0.25]), np.array([1.0, 1.0, 0.0, 0.0])
    ... )
    >>> round(estimate.value, 4), estimate.matched
    (0.3333, 2)
    """
    rewards, logged, chosen = (
        np.asarray(each, np.float64) for each in (rewards, logging_probabilities, policy_probabilities)
    )
    if not rewards.shape == logged.shape == chosen.shape:
        raise InputError("off-policy value: rewards and probabilities differ in number")
    if not ((logged > 0.0) & (logged <= 1.0)).all():
        raise InputError("off-policy value: a logging probability is not in (0, 1]")
    if not ((chosen >= 0.0) & (chosen <= 1.0)).all():
        raise InputError("off-policy value: a policy's probability is not in [0, 1]")
    weights = chosen / logged
    total = weights.sum()
    if not total > 0.0:
        raise InputError("off-policy value: the policy makes none of the logged choices")
    value = float((weights * rewards).sum() / total)
    error = float(np.sqrt((weights**2 * (rewards - value) ** 2).sum()) / total)
    return OffPolicyValue(
        value=value,
        low=value - 1.96 * error,
        high=value + 1.96 * error,
        effective_size=float(total**2 / (weights**2).sum()),
        matched=int((chosen > 0.0).sum()),
    )
