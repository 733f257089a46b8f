"""Splits lists into training, validation and test by time."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from psad_tf.beam.messages import Handler, Message, Step, messages, of_topic, report
from psad_tf.beam.options import SplitPolicy
from psad_tf.beam.sorted_runs import Run, RunWriter, merge_runs

TIMES = "times"
SPLIT_POINTS = "split_points"
NEVER = 1 << 62
_NUMBER = struct.Struct(">Q")
_WAITING = 100_000


class SplitPoints(NamedTuple):
    """From `valid_from` on lists validate, from `test_from` on they test."""

    valid_from: int
    test_from: int

    def split(self, time: int) -> str:
        """The split of a request at `time`.

        Example:
            >>> [SplitPoints(10, 20).split(time) for time in (9, 10, 20)]
            ['train', 'valid', 'test']
        """
        if time >= self.test_from:
            return "test"
        return "valid" if time >= self.valid_from else "train"


NO_SPLIT = SplitPoints(NEVER, NEVER)


class TimeCounter:
    """Counts requests a second, in bounded memory."""

    def __init__(self, folder: str) -> None:
        self._writer = RunWriter(folder, TIMES, buffer_bytes=16 << 20)
        self._counts: Counter[int] = Counter()

    def add(self, time: int) -> None:
        """Counts one request."""
        self._counts[time] += 1
        if len(self._counts) > _WAITING:
            self._send()

    def close(self) -> Iterable[Message]:
        """The runs of counts, by time."""
        self._send()
        yield from messages(TIMES, self._writer.close())

    def _send(self) -> None:
        for time, count in self._counts.items():
            self._writer.add(0, _NUMBER.pack(time), _NUMBER.pack(count))
        self._counts.clear()


class FindSplitPoints(Step):
    """Runs of requests a second -> the split points, sent to every partition.

    With fractions v and t of n lists ordered by time, `valid_from` is the time of list floor(n (1 - v - t))
    and `test_from` that of list floor(n (1 - t)), counting from 0: lists of the same second stay together.
    Where every list has a split of its own there are no split points.

    Args:
        policy: Fractions or moments.
        partitions: How many partitions to send to.
    """

    def __init__(self, policy: SplitPolicy, partitions: int) -> None:
        super().__init__(_FindSplitPoints(policy, partitions))


class _FindSplitPoints(Handler):
    topics = (TIMES,)

    def __init__(self, policy: SplitPolicy, partitions: int) -> None:
        self._policy = policy
        self._partitions = partitions

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        points = find_split_points(self._policy, of_topic(received, TIMES))
        yield report("split_points", tuple(None if point == NEVER else point for point in points))
        for receiver in range(self._partitions):
            yield SPLIT_POINTS, receiver, tuple(points)


def find_split_points(policy: SplitPolicy, runs: list[Run]) -> SplitPoints:
    """The moments of the policy, or those that cut the counted requests by its fractions."""
    if policy.valid_from is not None and policy.test_from is not None:
        return SplitPoints(policy.valid_from, policy.test_from)
    count = sum(_NUMBER.unpack(value)[0] for _, value in merge_runs(runs))
    # Shares are taken in whole millionths: 1 - 0.1 - 0.1 is not 0.8 in floats.
    valid = round(policy.valid_fraction * 1_000_000)
    test = round(policy.test_fraction * 1_000_000)
    ranks = (count * (1_000_000 - valid - test) // 1_000_000, count * (1_000_000 - test) // 1_000_000)
    found = [NEVER, NEVER]
    passed = 0
    for key, value in merge_runs(runs):
        passed += _NUMBER.unpack(value)[0]
        for index, rank in enumerate(ranks):
            if found[index] == NEVER and passed > rank:
                found[index] = _NUMBER.unpack(key)[0]
    return SplitPoints(*found)
