"""The logs of a block of users as arrays: who was shown what, where, and clicked on it.

Everything about a block follows from the world's seed and the block's number, so logs can be made in any
order and by any number of processes.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from psad_tf.datasets.simulator.config import SimulatorConfig
from psad_tf.datasets.simulator.policies import Policy
from psad_tf.datasets.simulator.world import USERS_IN_A_BLOCK, Users, World

SECONDS_A_SLOT = 5
_SECONDS_A_DAY = 86_400
_PAST_DAYS = 60


@dataclasses.dataclass(frozen=True)
class LogBlock:
    """The logs of one block of users; lists stand by user, then by round.

    Args:
        first_user: Number of the block's first user.
        users: The block's users.
        user: int [lists], the user's number.
        round_of: int [lists], from 0.
        times: int [lists], seconds.
        items: int [lists, n], item numbers in the initial order.
        scores: float [lists, n], the initial scores, rounded as in the records.
        slots: int [lists, n], the slot shown, -1 where a candidate was not shown.
        clicks: bool [lists, n].
        event_user: int [events], user numbers of all clicks, those before the first round among them.
        event_item: int [events], item numbers.
        event_time: int [events], seconds.
    """

    first_user: int
    users: Users
    user: np.ndarray
    round_of: np.ndarray
    times: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    slots: np.ndarray
    clicks: np.ndarray
    event_user: np.ndarray
    event_item: np.ndarray
    event_time: np.ndarray


def blocks_of(config: SimulatorConfig) -> int:
    """Number of blocks that hold all users."""
    return -(-config.users // USERS_IN_A_BLOCK)


def split_of(round_of: int | np.ndarray, rounds: int) -> int | np.ndarray:
    """The split's index in `SPLITS`: the last tenth of the rounds (at least one) is test, the one before
    validates."""
    share = max(1, rounds // 10)
    return (round_of >= rounds - 2 * share) * 1 + (round_of >= rounds - share) * 1


def log_block(world: World, policy: Policy, number: int) -> LogBlock:
    """Makes the logs of a block of users."""
    config, random = world.config, world.log_random(number)
    first_user = number * USERS_IN_A_BLOCK
    users = world.users_of_block(number).take(slice(0, min(USERS_IN_A_BLOCK, config.users - first_user)))
    size = len(users.types)
    # The last user of all may have fewer rounds, so that there are exactly `config.lists` lists.
    index = np.arange(first_user * config.lists_per_user, (first_user + size) * config.lists_per_user)
    index = index[index < config.lists]
    owner = index // config.lists_per_user - first_user  # [lists]
    round_of = index % config.lists_per_user
    times = config.start_time + round_of * _SECONDS_A_DAY
    times += random.integers(_SECONDS_A_DAY // 2, size=len(index))
    owners = users.take(owner)
    items = _draw_candidates(random, len(index), config)
    scores = world.quality[items] + np.take_along_axis(owners.first, world.categories[items], axis=1)
    scores += config.ranker_noise * random.standard_normal(items.shape)
    order = np.argsort(-scores, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    scores = np.take_along_axis(scores, order, axis=1).round(5)
    shown = _shown_order(policy(world, owners, items, scores, random), random, config)  # [lists, L]
    slots = np.full(items.shape, -1)
    np.put_along_axis(slots, shown, np.arange(config.slots)[np.newaxis], axis=1)
    shown_items = np.take_along_axis(items, shown, axis=1)
    shown_clicks = random.random(shown.shape) < world.click_probabilities(owners, shown_items)
    clicks = np.zeros(items.shape, bool)
    np.put_along_axis(clicks, shown, shown_clicks, axis=1)
    past_user, past_item, past_time = _past_clicks(world, random, users)
    row, slot = np.nonzero(shown_clicks)
    return LogBlock(
        first_user=first_user,
        users=users,
        user=first_user + owner,
        round_of=round_of,
        times=times,
        items=items,
        scores=scores,
        slots=slots,
        clicks=clicks,
        event_user=first_user + np.concatenate([past_user, owner[row]]),
        event_item=np.concatenate([past_item, shown_items[row, slot]]),
        event_time=np.concatenate([past_time, times[row] + SECONDS_A_SLOT * (slot + 1)]),
    )


def _shown_order(scores: np.ndarray, random: np.random.Generator, config: SimulatorConfig) -> np.ndarray:
    """The candidates in the order shown, int [lists, L]: the policy's, or random where a list is explored."""
    shuffled = np.argsort(random.random(scores.shape), axis=1)
    explored = random.random(len(scores)) < config.explore
    by_score = np.argsort(-scores, axis=1, kind="stable")
    return np.where(explored[:, np.newaxis], shuffled, by_score)[:, : config.slots]


def _draw_candidates(random: np.random.Generator, lists: int, config: SimulatorConfig) -> np.ndarray:
    """Sets of distinct items, each equally likely: int [lists, candidates]."""
    if config.items < config.candidates**2:
        keys = random.random((lists, config.items))
        return np.argsort(keys, axis=1)[:, : config.candidates]
    drawn = random.integers(config.items, size=(lists, config.candidates))
    while True:
        ordered = np.sort(drawn, axis=1)
        repeated = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(repeated):
            return drawn
        drawn[repeated] = random.integers(config.items, size=(len(repeated), config.candidates))


def _past_clicks(
    world: World, random: np.random.Generator, users: Users
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clicks before the first round, (user's row, item, time): items of categories that interest the user, at
    any slot's interest."""
    config = world.config
    counts = random.poisson(config.past_clicks, size=len(users.types))
    owner = np.repeat(np.arange(len(counts)), counts)
    # Of some items shown together the user clicks by interest: Gumbel's maximum draws from the softmax.
    shown = random.integers(config.items, size=(len(owner), 8))
    interest = users.take(owner).interest(random.integers(config.candidates, size=len(owner)))
    logits = world.quality[shown] + np.take_along_axis(interest, world.categories[shown], axis=1)
    best = (logits + random.gumbel(size=shown.shape)).argmax(axis=1)
    items = shown[np.arange(len(owner)), best]
    times = config.start_time - random.integers(1, _PAST_DAYS * _SECONDS_A_DAY, size=len(owner))
    return owner, items, times
