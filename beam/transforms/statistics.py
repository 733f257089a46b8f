"""Dense statistics in one pass, exact, so that no order of adding changes them.

Sums of floats depend on their order, and a job's order depends on its workers. So sums are kept without
rounding, as a short list of floats whose exact sum is the exact total (a *floating-point expansion*);
`math.fsum` gives the correctly rounded sum, and what it rounded away is summed again until nothing is left.
Values are 32-bit floats, as the model reads them, whose squares are exact in 64 bits. Mean and variance then
come from exact fractions:

    mean = S1 / n        variance = (S2 - S1² / n) / n

where S1 and S2 are the sums of the values and of their squares.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import apache_beam as beam
import numpy as np

from psad_tf.data.encode_record import ListValues
from psad_tf.features import FeatureDeclaration

_WAITING = 1 << 15


def exact_sum(values: Iterable[float]) -> list[float]:
    """Floats of decreasing size whose exact sum is the exact sum of the values.

    Example:
        >>> exact_sum([1e100, 1.0, 0.25, -1e-100])
        [1e+100, 1.25, -1e-100]
    """
    left = list(values)
    parts: list[float] = []
    while True:
        rounded = math.fsum(left)
        if rounded == 0.0:
            return parts
        parts.append(rounded)
        left.append(-rounded)


@dataclasses.dataclass
class DenseSummary:
    """Count, missing, sums and range of one dense feature; two are merged by `merge`.

    Attributes:
        count: Values, the missing ones among them.
        missing: NaNs.
        total: The exact sum, as `exact_sum` gives it.
        squares: The exact sum of squares.
        smallest: Infinity where there is no value.
        largest: Minus infinity where there is no value.
    """

    count: int = 0
    missing: int = 0
    total: list[float] = dataclasses.field(default_factory=list)
    squares: list[float] = dataclasses.field(default_factory=list)
    smallest: float = math.inf
    largest: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Adds 32-bit floats, NaN where missing."""
        there = values[~np.isnan(values)].astype(np.float64)
        self.count += len(values)
        self.missing += len(values) - len(there)
        if len(there):
            self.total = exact_sum([*self.total, *there.tolist()])
            self.squares = exact_sum([*self.squares, *(there * there).tolist()])
            self.smallest = min(self.smallest, float(there.min()))
            self.largest = max(self.largest, float(there.max()))

    def merge(self, other: DenseSummary) -> None:
        """Adds what another summary has seen."""
        self.count += other.count
        self.missing += other.missing
        self.total = exact_sum([*self.total, *other.total])
        self.squares = exact_sum([*self.squares, *other.squares])
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)

    def to_dict(self) -> dict[str, Any]:
        """The entry of `statistics.json`: count, missing, mean, std, min and max.

        `std` is 1.0 where all values are equal; mean, min and max are 0.0 where there is no value.
        """
        n = self.count - self.missing
        if n == 0:
            return {
                "count": self.count,
                "missing": self.missing,
                "mean": 0.0,
                "std": 1.0,
                "min": 0.0,
                "max": 0.0,
            }
        first = sum(map(Fraction, self.total), Fraction(0))
        second = sum(map(Fraction, self.squares), Fraction(0))
        variance = (second - first * first / n) / n
        return {
            "count": self.count,
            "missing": self.missing,
            "mean": float(first / n),
            "std": math.sqrt(variance) or 1.0 if self.smallest < self.largest else 1.0,
            # 0.0 and -0.0 are equal, and which of them was met first is chance.
            "min": self.smallest + 0.0,
            "max": self.largest + 0.0,
        }


class DenseStatistics(beam.PTransform):
    """Lists' values -> the one dictionary from the key of each dense feature to its `DenseSummary`.

    Args:
        declaration: The features; of one that takes a logarithm, log(1 + max(x, 0)) is summarized.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        super().__init__()
        self._combine = StatisticsFn(declaration)

    def expand(self, lists: beam.PCollection) -> beam.PCollection:
        return lists | "Summarize" >> beam.CombineGlobally(self._combine)


class StatisticsFn(beam.CombineFn):
    """Summaries of all dense features; values wait in lists, because numpy is slow on few of them."""

    def __init__(self, declaration: FeatureDeclaration) -> None:
        self._keys = declaration.dense_keys
        dense = (*declaration.context_dense, *declaration.history.dense, *declaration.candidate_dense)
        self._logarithmic = [feature.transform == "log1p_standardize" for feature in dense]

    def create_accumulator(self, *args: Any, **kwargs: Any) -> list[tuple[list[float], DenseSummary]]:
        return [([], DenseSummary()) for _ in self._keys]

    def add_input(self, mutable_accumulator: Any, element: ListValues, *args: Any, **kwargs: Any) -> Any:
        context = [(value,) for value in element.context_dense]
        columns = (*context, *element.history_dense, *zip(*element.dense, strict=True))
        for index, column in enumerate(columns):
            waiting, summary = mutable_accumulator[index]
            waiting.extend(column)
            if len(waiting) >= _WAITING:
                self._empty(index, waiting, summary)
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            for (_, total), (_, summary) in zip(merged, self.compact(accumulator), strict=True):
                total.merge(summary)
        return merged

    def compact(self, accumulator: Any, *args: Any, **kwargs: Any) -> Any:
        for index, (waiting, summary) in enumerate(accumulator):
            self._empty(index, waiting, summary)
        return accumulator

    def extract_output(self, accumulator: Any, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        return {
            key: summary.to_dict()
            for key, (_, summary) in zip(self._keys, self.compact(accumulator), strict=True)
        }

    def _empty(self, index: int, waiting: list[float], summary: DenseSummary) -> None:
        if not waiting:
            return
        values = np.asarray(waiting, np.float64).astype(np.float32)
        waiting.clear()
        if self._logarithmic[index]:
            # Rounded to 32 bits again, as the model computes it; the float64 logarithm is right to the last
            # bit kept.
            values = np.log1p(np.maximum(values.astype(np.float64), 0.0)).astype(np.float32)
        summary.add(values)
