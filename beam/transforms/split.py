"""Splits lists into training, validation and test by time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam

from psad_tf.beam.options import SplitPolicy
from psad_tf.beam.transforms.check import Request

NEVER = 1 << 62


class SplitPoints(NamedTuple):
    """From `valid_from` on lists validate, from `test_from` on they test."""

    valid_from: int = NEVER
    test_from: int = NEVER

    def split(self, time: int) -> str:
        """The split of a request at `time`.

        Example:
            >>> [SplitPoints(10, 20).split(time) for time in (9, 10, 20)]
            ['train', 'valid', 'test']
        """
        if time >= self.test_from:
            return "test"
        return "valid" if time >= self.valid_from else "train"


@beam.ptransform_fn
def FindSplitPoints(requests: beam.PCollection, policy: SplitPolicy) -> beam.PCollection:
    """Travelling impressions by user -> the one `SplitPoints`; none where no time decides.

    With fractions v and t of n lists ordered by time, `valid_from` is the time of list floor(n (1 - v - t))
    and `test_from` that of list floor(n (1 - t)), counting from 0: lists of the same second stay together. Of
    a request's copies only the earliest counts.
    """
    if policy.valid_from is not None and policy.test_from is not None:
        return requests.pipeline | beam.Create([SplitPoints(policy.valid_from, policy.test_from)])
    return (
        requests
        | "Copies" >> beam.MapTuple(_copy).with_output_types(tuple[bytes, bytes])
        | "Earliest" >> beam.CombinePerKey(min)
        | "Times" >> beam.FlatMapTuple(_time_without_split).with_output_types(int)
        | "Lists a second" >> beam.combiners.Count.PerElement()
        | "All" >> beam.combiners.ToList()
        | "Find" >> beam.FlatMap(_find, policy)
    )


def _copy(_: bytes, value: bytes) -> tuple[bytes, bytes]:
    request = Request.of(value)
    return request.digest, b"%b%b%c" % (request.time, request.copy, request.own_split)


def _time_without_split(_: bytes, copy: bytes) -> Iterable[int]:
    return () if copy[-1] else (int.from_bytes(copy[:8], "big"),)


def _find(counted: list[tuple[int, int]], policy: SplitPolicy) -> Iterable[SplitPoints]:
    """The moments that cut requests, given as times and how many each has, by the policy's fractions."""
    count = sum(number for _, number in counted)
    # Shares are taken in whole millionths: 1 - 0.1 - 0.1 is not 0.8 in floats.
    valid, test = (round(share * 1_000_000) for share in (policy.valid_fraction, policy.test_fraction))
    ranks = [count * (1_000_000 - share) // 1_000_000 for share in (valid + test, test)]
    found = [NEVER, NEVER]
    for time, number in sorted(counted, reverse=True):
        count -= number  # so many are earlier
        found = [
            time if count <= rank < count + number else point
            for point, rank in zip(found, ranks, strict=True)
        ]
    return [SplitPoints(*found)] if counted else []
