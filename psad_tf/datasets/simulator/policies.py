"""Which of the candidates a logging system showed, and in which order.

A policy is a function that scores the candidates of some lists; the L highest are shown, the highest first.
Anything that ranks can be one: the logs of a reranker are those of the policy that gives its scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psad_tf.datasets.simulator.oracles import pointwise_values
from psad_tf.datasets.simulator.world import Users, World

# (world, one user a list, items int [lists, n], the initial scores float [lists, n], generator)
# -> scores float [lists, n]
Policy = Callable[[World, Users, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

_RERANKER_NOISE = 0.1


def initial(
    world: World, users: Users, items: np.ndarray, scores: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The initial ranker's order."""
    return scores


def reranker(
    world: World, users: Users, items: np.ndarray, scores: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """A previous reranker's order: each item's own click probability, seen with noise, blind to the list."""
    values = pointwise_values(world, users, items, world.config.slots)
    return values + _RERANKER_NOISE * random.standard_normal(items.shape)


POLICIES: dict[str, Policy] = {"initial": initial, "reranker": reranker}
