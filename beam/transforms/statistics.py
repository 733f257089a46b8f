"""Dense statistics in one pass, exact, so that no order of adding changes them.

Sums of floats depend on their order, and a job's order depends on its workers. So sums are exact fractions:
`math.fsum` gives the correctly rounded sum of a batch, and what it rounded away is summed again until nothing
is left. Values are 32-bit floats, as the model reads them, whose squares are exact in 64 bits.

    mean = S1 / n        variance = (S2 - S1² / n) / n

where S1 and S2 are the sums of the values and of their squares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.transforms.combiners import ToDict, TupleCombineFn
from apache_beam.transforms.window import GlobalWindows

from psad_tf.data.encode_record import ListValues
from psad_tf.features import FeatureDeclaration

_WAITING = 1 << 15


class DenseSummary(NamedTuple):
    """What is known of one feature's values: 32-bit floats, NaN where missing.

    Attributes:
        there: Values that are not missing.
        missing: NaNs.
        total: The exact sum.
        squares: The exact sum of squares.
        minimum: Infinity where there is no value.
        maximum: Minus infinity where there is no value.
    """

    there: int
    missing: int
    total: Fraction
    squares: Fraction
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: np.ndarray) -> DenseSummary:
        """The summary of 32-bit floats."""
        there = values[~np.isnan(values)].astype(np.float64)
        total, squares = exact_sum(there.tolist()), exact_sum((there * there).tolist())
        edges = float(there.min(initial=math.inf)), float(there.max(initial=-math.inf))
        return cls(len(there), len(values) - len(there), total, squares, *edges)

    def to_dict(self) -> dict[str, Any]:
        """The entry of `statistics.json`: count, missing, mean, std, min and max.

        `std` is 1.0 where all values are equal; mean, min and max are 0.0 where there is no value.
        """
        n = self.there
        variance = (self.squares - self.total * self.total / n) / n if self.minimum < self.maximum else 0
        return {
            "count": n + self.missing,
            "missing": self.missing,
            "mean": float(self.total / n) if n else 0.0,
            "std": math.sqrt(variance) or 1.0,
            # 0.0 and -0.0 are equal, and which of them was met first is chance.
            "min": self.minimum + 0.0 if n else 0.0,
            "max": self.maximum + 0.0 if n else 0.0,
        }


MERGE_SUMMARIES = TupleCombineFn(sum, sum, sum, sum, min, max)


@beam.ptransform_fn
def DenseStatistics(lists: beam.PCollection, declaration: FeatureDeclaration) -> beam.PCollection:
    """Training lists' values -> the one dictionary from each dense feature's key to its summary's entry."""
    summarize = beam.ParDo(_Summarize(declaration))
    return (
        lists
        | "Summarize" >> summarize.with_output_types(tuple[str, tuple[Any, ...]])
        | "Merge" >> beam.CombinePerKey(MERGE_SUMMARIES)
        | "Entries" >> beam.MapTuple(lambda key, merged: (key, DenseSummary(*merged).to_dict()))
        | "All" >> ToDict()
    )


class _Summarize(beam.DoFn):
    """Lists' values -> (key, `DenseSummary`) of many at once, because numpy is slow on few."""

    def __init__(self, declaration: FeatureDeclaration) -> None:
        dense = (*declaration.context_dense, *declaration.history.dense, *declaration.candidate_dense)
        logarithmic = [feature.transform == "log1p_standardize" for feature in dense]
        self._features = list(zip(declaration.dense_keys, logarithmic, strict=True))

    def start_bundle(self) -> None:
        self._waiting: list[list[float]] = [[] for _ in self._features]

    def process(self, values: ListValues) -> Iterator[tuple[str, DenseSummary]]:
        context = zip(values.context_dense, strict=True)
        columns = (*context, *values.history_dense, *zip(*values.dense, strict=True))
        for waiting, column in zip(self._waiting, columns, strict=True):
            waiting.extend(column)
        if max(map(len, self._waiting), default=0) > _WAITING:
            yield from self._passed_on()

    def finish_bundle(self) -> Iterator[Any]:
        return map(GlobalWindows.windowed_value_at_end_of_window, self._passed_on())

    def _passed_on(self) -> Iterator[tuple[str, DenseSummary]]:
        for (key, logarithmic), waiting in zip(self._features, self._waiting, strict=True):
            values = np.asarray(waiting, np.float64).astype(np.float32)
            if logarithmic:
                # Rounded to 32 bits again, as the model computes it; the float64 logarithm is right to the
                # last bit kept.
                values = np.log1p(np.maximum(values.astype(np.float64), 0.0)).astype(np.float32)
            yield key, DenseSummary.of(values)
            waiting.clear()


def exact_sum(values: Iterable[float]) -> Fraction:
    """The sum without rounding.

    Example:
        >>> exact_sum([1e100, 1.0, 0.25, -1e100])
        Fraction(5, 4)
    """
    left = list(values)
    total = Fraction(0)
    while rounded := math.fsum(left):
        total += Fraction(rounded)
        left.append(-rounded)
    return total
