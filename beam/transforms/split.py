"""Splits lists into training, validation and test by time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from psad_tf.beam.options import SplitPolicy
from psad_tf.beam.transforms.check import Request

NEVER = 1 << 62
_Counted = list[tuple[int, int]]  # values, and how many lists each has
_Place = tuple[int, int]  # a value, and the rank of a list among those of the value


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

    First lists are counted by spans of time, then by second in the spans that hold a point, so that no worker
    needs memory for every second of the logs.
    """
    if policy.valid_from is not None and policy.test_from is not None:
        return requests.pipeline | beam.Create([SplitPoints(policy.valid_from, policy.test_from)])
    # No `CombinePerKey(min)`: hardly a request has copies, and Beam would keep minima of a million in memory.
    times = (
        requests
        | "Copies" >> beam.MapTuple(_copy).with_output_types(tuple[bytes, bytes])
        | "By request" >> beam.GroupByKey()
        | "Times" >> beam.FlatMapTuple(_time_without_split).with_output_types(int)
    )
    spans = (
        times
        | "Spans" >> beam.Map(_span)
        | "Lists a span" >> beam.combiners.Count.PerElement()
        | "All spans" >> beam.combiners.ToList()
        | "Find spans" >> beam.FlatMap(_find_spans, policy)
    )
    seconds = (
        times
        | "Of these spans" >> beam.Filter(_is_of, AsSingleton(spans, default_value=()))
        | "Lists a second" >> beam.combiners.Count.PerElement()
        | "All seconds" >> beam.combiners.ToList()
    )
    return spans | "Find" >> beam.Map(_find, AsSingleton(seconds))


def _copy(_: bytes, value: bytes) -> tuple[bytes, bytes]:
    request = Request.of(value)
    return request.digest, b"%b%b%c" % (request.time, request.copy, request.own_split)


def _time_without_split(_: bytes, copies: Iterable[bytes]) -> Iterable[int]:
    copy = min(copies)
    return () if copy[-1] else (int.from_bytes(copy[:8], "big"),)


def _span(time: int) -> int:
    return time >> 12  # some 68 minutes: a year has 7,700


def _is_of(time: int, spans: Iterable[_Place | None]) -> bool:
    return any(_span(time) == span for span, _ in filter(None, spans))


def _find_spans(counted: _Counted, policy: SplitPolicy) -> Iterable[tuple[_Place | None, ...]]:
    """The spans of `valid_from` and `test_from`, given spans and how many lists each has."""
    count = sum(number for _, number in counted)
    # Shares are taken in whole millionths: 1 - 0.1 - 0.1 is not 0.8 in floats.
    valid, test = (round(share * 1_000_000) for share in (policy.valid_fraction, policy.test_fraction))
    ranks = [count * (1_000_000 - share) // 1_000_000 for share in (valid + test, test)]
    return [tuple(_place(counted, rank) for rank in ranks)] if counted else []


def _find(spans: tuple[_Place | None, ...], counted: _Counted) -> SplitPoints:
    """The points, given their spans and how many lists each second of these has."""
    points = []
    for place in spans:
        second = place and _place([each for each in counted if _span(each[0]) == place[0]], place[1])
        points.append(second[0] if second else NEVER)
    return SplitPoints(*points)


def _place(counted: _Counted, rank: int) -> _Place | None:
    """Where the list of this rank is, from 0, in the order of the values; None past the end."""
    for value, number in sorted(counted):
        if rank < number:
            return value, rank
        rank -= number
    return None
