"""The simulated data source of the benchmarks: its lists, and how near a ranking is to the best list."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from benchmarks.common import WORK_DIR, fingerprint, prepare, read_json
from psad_tf.datasets.simulator import SimulatorConfig, World
from psad_tf.datasets.simulator.oracles import greedy_lists
from psad_tf.features import ITEM_ID
from psad_tf.files import write_json

CANDIDATES = 8
CONFIG = SimulatorConfig(lists=12_000, candidates=CANDIDATES, items=500)
ENUMERATED = 300
UTILITY = "utility"
NEARNESS = "share_of_best_utility"


def simulated_lists(work_dir: str = WORK_DIR) -> str:
    """The folder of the simulated lists; made when it is not there."""
    folder = os.path.join(work_dir, "simulator", fingerprint(CONFIG))
    lists = os.path.join(folder, "lists")
    if not os.path.isdir(lists):
        raw = os.path.join(folder, "raw")
        size = {"lists": CONFIG.lists, "candidates": CONFIG.candidates, "items": CONFIG.items}
        options = [text for name, value in size.items() for text in (f"--{name}", str(value))]
        prepare(["simulate", "--output_dir", raw, *options])
        prepare(["preprocess", "--input_dir", raw, "--output_dir", lists])
    return lists


class Oracle:
    """Expected utility of rankings, and the best list's, for the first `ENUMERATED` test lists.

    Args:
        lists_dir: Of `simulated_lists`.
    """

    def __init__(self, lists_dir: str) -> None:
        self.world = World(CONFIG)
        self._values = {
            name: _vocabulary(os.path.join(lists_dir, "vocabularies", f"{name}.txt"))
            for name in ("user_id", ITEM_ID)
        }
        self._path = os.path.join(os.path.dirname(lists_dir), "best_utilities.json")
        self._best: dict[str, float] = read_json(self._path, {})

    def measure(self, batch: Mapping[str, tf.Tensor], scores: np.ndarray) -> dict[str, np.ndarray]:
        """`utility` and its share of the best list's, NaN where that is not enumerated.

        Args:
            batch: Encoded test lists without padding candidates.
            scores: float [lists, n].
        """
        users = self._values["user_id"][batch["user_id"].numpy()[:, 0]]
        items = self._values[ITEM_ID][batch[ITEM_ID].numpy()[..., 0]]
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(items, order, axis=1)
        utility = self.world.expected_utilities(users.tolist(), ranked.tolist())
        best = np.array([self._best_utility(user, row) for user, row in zip(users, items, strict=True)])
        return {UTILITY: np.where(np.isnan(best), np.nan, utility), NEARNESS: utility / best}

    def finish(self) -> None:
        """Keeps the enumerated utilities for the next time."""
        write_json(self._path, self._best)

    def greedy(self, batch: Mapping[str, tf.Tensor]) -> dict[str, np.ndarray]:
        """Scores of the list that takes the best next item by the true click law."""
        users = self._values["user_id"][batch["user_id"].numpy()[:, 0]]
        items = self._values[ITEM_ID][batch[ITEM_ID].numpy()[..., 0]]
        lists = greedy_lists(self.world, users.tolist(), items.tolist())
        place = [[row.index(item) for item in each] for row, each in zip(lists, items.tolist(), strict=True)]
        return {"greedy_oracle": -np.array(place, np.float64)}

    def _best_utility(self, user: str, items: np.ndarray) -> float:
        key = f"{user} {' '.join(sorted(items))}"
        if key not in self._best:
            if len(self._best) >= ENUMERATED:
                return float("nan")
            self._best[key] = self.world.best_list(str(user), sorted(items.tolist()))[1]
        return self._best[key]


def _vocabulary(path: str) -> np.ndarray:
    with open(path, encoding="utf-8") as file:
        return np.array(["", "?", *(line.rstrip("\n") for line in file)])
