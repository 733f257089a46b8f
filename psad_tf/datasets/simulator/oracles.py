"""How good a list can be: rankings of a world's candidates that know more or less of its click law.

Each takes one user a list and the candidates' item numbers, and gives the order in which to show them, the
first L slots filled. Their true values, side by side, say what there is to be gained in a world:

| oracle      | knows                                                                       |
|-------------|-----------------------------------------------------------------------------|
| `random`    | nothing                                                                     |
| `initial`   | what the initial ranker knows                                               |
| `pointwise` | the world's parameters and the user's, but not what else is in the list     |
| `greedy`    | the click law: slot by slot, the largest probability given the slots before |
| `beam`      | the click law, keeping the best prefixes of every length                    |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from psad_tf.datasets.simulator.world import Users, World

BEAM_WIDTH = 16
_LISTS_AT_ONCE = 4096


def pointwise_values(world: World, users: Users, items: np.ndarray, slots: int) -> np.ndarray:
    """Each candidate's click probability were it alone in the list, the mean over the first L slots.

    Returns:
        float [lists, n].
    """
    counts = np.zeros((len(items), world.config.categories + 1))
    return np.mean([world.slot_probability(users, slot, items, counts) for slot in range(slots)], axis=0)


def pointwise_order(world: World, users: Users, items: np.ndarray, slots: int) -> np.ndarray:
    """The candidates by what each is worth alone: int [lists, slots]."""
    return np.argsort(-pointwise_values(world, users, items, slots), axis=1, kind="stable")[:, :slots]


def greedy_order(world: World, users: Users, items: np.ndarray, slots: int) -> np.ndarray:
    """Slot by slot, the candidate of the largest click probability there: int [lists, slots]."""
    return beam_order(world, users, items, slots, width=1)


def beam_order(
    world: World, users: Users, items: np.ndarray, slots: int, width: int = BEAM_WIDTH
) -> np.ndarray:
    """The best list that a beam search over prefixes finds: int [lists, slots].

    Args:
        world: The world.
        users: One user a list.
        items: int [lists, n], item numbers.
        slots: L, at most n.
        width: Prefixes kept, those of the most expected clicks; 1 is greedy, enough of them are optimal.
    """
    parts = [
        _beam_order(world, users.take(slice(start, start + _LISTS_AT_ONCE)), part, slots, width)
        for start in range(0, len(items), _LISTS_AT_ONCE)
        for part in [items[start : start + _LISTS_AT_ONCE]]
    ]
    return np.concatenate(parts) if parts else np.empty((0, slots), np.int64)


def _beam_order(world: World, users: Users, items: np.ndarray, slots: int, width: int) -> np.ndarray:
    lists, candidates = items.shape
    kept = 1
    counts = np.zeros((lists, kept, world.config.categories + 1))
    free = np.ones((lists, kept, candidates), bool)
    values, chosen = np.zeros((lists, kept)), np.empty((lists, kept, 0), np.int64)
    for slot in range(slots):
        rows = np.repeat(np.arange(lists), kept)
        probability = world.slot_probability(
            users.take(rows), slot, items[rows], counts.reshape(lists * kept, -1)
        ).reshape(lists, kept, candidates)
        reached = np.where(free, values[..., np.newaxis] + probability, -np.inf).reshape(lists, -1)
        following = min(width, kept * (candidates - slot))
        best = np.argsort(-reached, axis=1, kind="stable")[:, :following]
        before, taken = best // candidates, best % candidates  # [lists, following]
        kept = following
        values = np.take_along_axis(reached, best, axis=1)
        of = np.arange(lists)[:, np.newaxis]
        counts, free, chosen = counts[of, before].copy(), free[of, before].copy(), chosen[of, before]
        place = np.arange(kept)[np.newaxis]
        free[of, place, taken] = False
        counts[of, place, world.categories[np.take_along_axis(items, taken, axis=1)]] += 1
        chosen = np.concatenate([chosen, taken[..., np.newaxis]], axis=2)
    return chosen[:, 0]


def true_values(world: World, users: Users, items: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The expected clicks on lists: float [lists].

    Args:
        world: The world.
        users: One user a list.
        items: int [lists, n], the candidates' item numbers.
        order: int [lists, slots], the candidate at each slot.
    """
    return world.click_probabilities(users, np.take_along_axis(items, order, axis=1)).sum(axis=1)


Oracle = Callable[[World, Users, np.ndarray, int], np.ndarray]


def _random_order(world: World, users: Users, items: np.ndarray, slots: int) -> np.ndarray:
    random = np.random.default_rng(world.config.seed)
    return np.argsort(random.random(items.shape), axis=1)[:, :slots]


def _initial_order(world: World, users: Users, items: np.ndarray, slots: int) -> np.ndarray:
    return np.broadcast_to(np.arange(slots), (len(items), slots))


ORACLES: dict[str, Oracle] = {
    "random": _random_order,
    "initial": _initial_order,
    "pointwise": pointwise_order,
    "greedy": greedy_order,
    "beam": beam_order,
}


def headroom(
    world: World, users: Users, items: np.ndarray, slots: int | None = None
) -> dict[str, np.ndarray]:
    """The true value of every oracle's lists: {oracle: float [lists]}.

    Args:
        world: The world.
        users: One user a list.
        items: int [lists, n], the candidates' item numbers in the initial order.
        slots: L; by default what the world shows.
    """
    slots = world.config.slots if slots is None else slots
    return {
        name: true_values(world, users, items, oracle(world, users, items, slots))
        for name, oracle in ORACLES.items()
    }


def greedy_lists(
    world: World, user_ids: Sequence[str], candidates: Sequence[Sequence[str]], slots: int | None = None
) -> list[list[str]]:
    """`greedy_order` for ids: the lists that it shows."""
    items = np.array([world.numbers(item_ids) for item_ids in candidates])
    order = greedy_order(world, world.users(user_ids), items, slots or items.shape[1])
    return [[listed[index] for index in row] for listed, row in zip(candidates, order, strict=True)]
