"""Splits lists into training, validation and test by time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam

from psad_tf.beam.options import SplitPolicy
from psad_tf.beam.transforms.check import Request
from psad_tf.beam.transforms.sort_values import SortValues

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


class FindSplitPoints(beam.PTransform):
    """Travelling impressions by user -> the one `SplitPoints`; none where no time decides.

    With fractions v and t of n lists ordered by time, `valid_from` is the time of list floor(n (1 - v - t))
    and `test_from` that of list floor(n (1 - t)), counting from 0: lists of the same second stay together. Of
    a request's copies only the earliest counts.

    Args:
        policy: Fractions or moments.
    """

    def __init__(self, policy: SplitPolicy) -> None:
        super().__init__()
        self._policy = policy

    def expand(self, requests: beam.PCollection) -> beam.PCollection:
        policy = self._policy
        if policy.valid_from is not None and policy.test_from is not None:
            return requests.pipeline | beam.Create([SplitPoints(policy.valid_from, policy.test_from)])
        return (
            requests
            | "Copies" >> beam.Map(_copy).with_output_types(tuple[bytes, bytes])
            | "Earliest" >> beam.CombinePerKey(min)
            | "Times" >> beam.FlatMap(_time_without_split).with_output_types(bytes)
            | "Lists a second" >> beam.combiners.Count.PerElement()
            | "Together" >> beam.MapTuple(_counted_time).with_output_types(tuple[None, bytes])
            | "All" >> beam.GroupByKey()
            | "Sort" >> SortValues()
            | "Find" >> beam.MapTuple(lambda _, counts: find_split_points(policy, counts))
        )


def _copy(keyed: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    request = Request.of(keyed[1])
    return request.digest, b"%b%b%c" % (request.time, request.copy, request.own_split)


def _time_without_split(keyed: tuple[bytes, bytes]) -> Iterable[bytes]:
    return () if keyed[1][-1] else (keyed[1][:8],)


def _counted_time(time: bytes, count: int) -> tuple[None, bytes]:
    return None, time + count.to_bytes(8, "big")


def find_split_points(policy: SplitPolicy, counted: Iterable[bytes]) -> SplitPoints:
    """The moments that cut the counted requests by the policy's fractions.

    Args:
        policy: Fractions.
        counted: Times and how many requests each has, 8 bytes each, in the order of time.
    """
    times = [(int.from_bytes(each[:8], "big"), int.from_bytes(each[8:], "big")) for each in counted]
    count = sum(number for _, number in times)
    # Shares are taken in whole millionths: 1 - 0.1 - 0.1 is not 0.8 in floats.
    valid = round(policy.valid_fraction * 1_000_000)
    test = round(policy.test_fraction * 1_000_000)
    ranks = (count * (1_000_000 - valid - test) // 1_000_000, count * (1_000_000 - test) // 1_000_000)
    found = [NEVER, NEVER]
    passed = 0
    for time, number in times:
        passed += number
        for index, rank in enumerate(ranks):
            if found[index] == NEVER and passed > rank:
                found[index] = time
    return SplitPoints(*found)
