"""A click world with a known optimum: the expected utility of any list is exact.

A seeded world has items of categories, users of hidden types, and one user's click on slot s (0 is the
first) of a list i_0 .. i_{L-1} has the probability

    P(click_s) = examine_s * sigmoid(bias + quality[i_s] + interest_u(s)[c_s]
                                     - repeat * n_s + complement * m_s),      c_s = category of i_s

    examine_s      (s + 1)^-position_bias: position bias
    interest_u(s)  w first_u + (1 - w) second_u with w = exp(-drift_u s): interest that drifts along the list
    n_s            number of earlier slots with category c_s: diminishing returns of repeats
    m_s            1 if an earlier slot has the category that c_s complements, else 0: complementary pairs
                   (categories 2k and 2k+1 are a pair: an item of 2k+1 is worth more after one of 2k)

Clicks depend on what is shown, not on other clicks, so the slots are independent given the list and

    expected_utility(list) = sum_s P(click_s),     the expected number of clicks.

A user's `first`, `second` and `drift` are the type's plus the user's own deviation. The type shows partly
in the attribute `segment` (right with probability `visible`), in `age`, and in what the user clicked.

Sources: the position bias is Richardson, Dominowska and Ragno (WWW 2007); diminishing returns by category
follow Yue and Guestrin, "Linear submodular bandits" (NeurIPS 2011).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from psad_tf.datasets.simulator.config import SimulatorConfig
from psad_tf.errors import InputError

USERS_IN_A_BLOCK = 200
_MOST_LISTS_ENUMERATED = 1_000_000
_WORLD_STREAM, _USER_STREAM, _LOG_STREAM = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Users:
    """Some users, a row each.

    Args:
        types: int [users], hidden.
        first: float [users, categories], interest at the list's start.
        second: float [users, categories], interest far down the list.
        drift: float [users].
        segments: int [users], the visible type.
        ages: int [users].
    """

    types: np.ndarray
    first: np.ndarray
    second: np.ndarray
    drift: np.ndarray
    segments: np.ndarray
    ages: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Users:
        """The users of some rows."""
        return Users(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def interest(self, slot: int | np.ndarray) -> np.ndarray:
        """Interest at a slot (one, or one a user): float [users, categories]."""
        weight = np.exp(-self.drift * slot)[:, np.newaxis]
        return weight * self.first + (1.0 - weight) * self.second


class World:
    """The items and the click law; users are made when asked for, from the seed alone.

    Args:
        config: The world.

    Attributes:
        categories: int [items].
        quality: float [items].
        popularity: float [items], the quality as it shows, with noise.

    Example:
        >>> world = World(SimulatorConfig(candidates=4, items=50))
        >>> best, utility = world.best_list("u0", ["i1", "i2", "i3", "i4"])
        >>> utility >= world.expected_utility("u0", ["i1", "i2", "i3", "i4"])
        True
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        random = self._random(_WORLD_STREAM, 0)
        self.categories = random.integers(config.categories, size=config.items)
        self.quality = config.quality * random.standard_normal(config.items)
        self.popularity = self.quality + config.quality * random.standard_normal(config.items)
        shape = (config.user_types, config.categories)
        self._first = config.interest * random.standard_normal(shape)
        self._second = config.interest * random.standard_normal(shape)
        self._drift = np.linspace(0.0, config.max_drift, config.user_types)
        category = np.arange(config.categories)
        self._complemented = np.where(category % 2 == 1, category - 1, -1)
        self.users_of_block = functools.lru_cache(maxsize=64)(self._users_of_block)

    def log_random(self, block: int) -> np.random.Generator:
        """The generator of a block's logs; the same for the same seed and block."""
        return self._random(_LOG_STREAM, block)

    def users(self, user_ids: Sequence[str]) -> Users:
        """The users of some ids (`u0`, `u1` ...), one row an id."""
        return self.users_numbered(
            np.array([_number(user_id, "u", self.config.users) for user_id in user_ids], np.int64)
        )

    def users_numbered(self, numbers: np.ndarray) -> Users:
        """The users of some numbers, int [users], one row a number."""
        different, rows = np.unique(numbers, return_inverse=True)
        blocks = different // USERS_IN_A_BLOCK
        parts = [
            self.users_of_block(int(block)).take(different[blocks == block] % USERS_IN_A_BLOCK)
            for block in np.unique(blocks)
        ]
        names = [field.name for field in dataclasses.fields(Users)]
        joined = Users(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        return joined.take(rows)

    def click_probabilities(self, users: Users, lists: np.ndarray) -> np.ndarray:
        """P(click) of every slot.

        Args:
            users: One user a list.
            lists: int [lists, slots], item numbers in the order shown.

        Returns:
            float [lists, slots].
        """
        rows = np.arange(len(lists))
        counts = np.zeros((len(lists), self.config.categories + 1))  # the last column: no category
        answer = np.empty(lists.shape)
        for slot in range(lists.shape[1]):
            items = lists[:, slot]
            answer[:, slot] = self.slot_probability(users, slot, items[:, np.newaxis], counts)[:, 0]
            counts[rows, self.categories[items]] += 1
        return answer

    def expected_utility(self, user_id: str, item_ids: Sequence[str]) -> float:
        """The expected number of clicks on a list, exactly."""
        return float(self.expected_utilities([user_id], [item_ids])[0])

    def expected_utilities(self, user_ids: Sequence[str], lists: Sequence[Sequence[str]]) -> np.ndarray:
        """The expected number of clicks on lists of one length: float [lists]."""
        numbers = np.array([self.numbers(item_ids) for item_ids in lists])
        return self.click_probabilities(self.users(user_ids), numbers).sum(axis=1)

    def best_list(
        self, user_id: str, item_ids: Sequence[str], slots: int | None = None
    ) -> tuple[list[str], float]:
        """The list of the largest expected utility, by enumeration.

        Args:
            user_id: The user.
            item_ids: N candidates.
            slots: L, length of the list; by default N.

        Returns:
            The list (the first in the candidates' lexicographic order among equals) and its utility.

        Raises:
            InputError: There are more than a million lists.
        """
        slots = len(item_ids) if slots is None else slots
        if math.perm(len(item_ids), slots) > _MOST_LISTS_ENUMERATED:
            raise InputError(f"best_list: too many lists of {slots} out of {len(item_ids)} to enumerate")
        orders = np.array(list(itertools.permutations(range(len(item_ids)), slots)))
        lists = self.numbers(item_ids)[orders]
        user = self.users([user_id]).take(np.zeros(len(lists), np.int64))
        utilities = self.click_probabilities(user, lists).sum(axis=1)
        best = int(np.argmax(utilities))
        return [item_ids[index] for index in orders[best]], float(utilities[best])

    def slot_probability(self, users: Users, slot: int, items: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """P(click) of each choice at one slot, given the categories before it.

        Args:
            users: One user a list.
            slot: From 0.
            items: int [lists, choices], item numbers.
            counts: float [lists, categories + 1], items of each category before the slot; the last is 0.

        Returns:
            float [lists, choices].
        """
        categories = self.categories[items]
        interest = np.take_along_axis(users.interest(slot), categories, axis=1)
        repeats = np.take_along_axis(counts, categories, axis=1)
        complemented = np.take_along_axis(counts, self._complemented[categories], axis=1) > 0
        logit = self.config.bias + self.quality[items] + interest
        logit += self.config.complement * complemented - self.config.repeat * repeats
        return (slot + 1.0) ** -self.config.position_bias / (1.0 + np.exp(-logit))

    def _users_of_block(self, block: int) -> Users:
        """The users of a block of `USERS_IN_A_BLOCK`; the last block has as many, used or not."""
        config, random = self.config, self._random(_USER_STREAM, block)
        types = random.integers(config.user_types, size=USERS_IN_A_BLOCK)
        own = config.deviation * random.standard_normal((2, USERS_IN_A_BLOCK, config.categories))
        seen = random.random(USERS_IN_A_BLOCK) < config.visible
        other = random.integers(config.user_types, size=USERS_IN_A_BLOCK)
        ages = 22 + 6 * types + 6 * random.standard_normal(USERS_IN_A_BLOCK)
        return Users(
            types=types,
            first=self._first[types] + own[0],
            second=self._second[types] + own[1],
            drift=self._drift[types],
            segments=np.where(seen, types, other),
            ages=np.clip(ages, 18, 90).astype(np.int64),
        )

    def _random(self, stream: int, block: int) -> np.random.Generator:
        sequence = np.random.SeedSequence(self.config.seed, spawn_key=(stream, block))
        return np.random.Generator(np.random.PCG64(sequence))

    def numbers(self, item_ids: Sequence[str]) -> np.ndarray:
        """The numbers of items by id (`i0`, `i1` ...): int [items]."""
        return np.array([_number(item_id, "i", self.config.items) for item_id in item_ids], np.int64)


def _number(text: str, prefix: str, size: int) -> int:
    """Reads `u12` or `i12`."""
    number = int(text[1:]) if text[:1] == prefix and text[1:].isdecimal() else -1
    if not 0 <= number < size:
        raise InputError(f"{text!r} is not in this world ({prefix}0 to {prefix}{size - 1})")
    return number
