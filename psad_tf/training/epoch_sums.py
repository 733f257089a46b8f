"""Means of the loss's terms over an epoch, whether or not it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping

import tensorflow as tf


class EpochSums(tf.train.experimental.PythonState):
    """Sums of the loss's terms over the steps of an epoch.

    They are kept in checkpoints, so that the means of an epoch that was stopped and resumed are those
    of the whole epoch.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._sums: dict[str, float] = {}

    def add(self, terms: Mapping[str, float]) -> None:
        """Adds a step."""
        self._steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def means(self) -> dict[str, float]:
        """Mean of each term since the last `clear`."""
        return {name: value / self._steps for name, value in self._sums.items()}

    def clear(self) -> None:
        """Starts an epoch."""
        self._steps, self._sums = 0, {}

    def serialize(self) -> str:
        """For the checkpoint."""
        return json.dumps([self._steps, self._sums])

    def deserialize(self, string_value: str) -> None:
        """From the checkpoint."""
        self._steps, self._sums = json.loads(string_value)
