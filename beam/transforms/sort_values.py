"""The values of each key in sorted order: in memory up to a bound, beyond it by sorted runs on local disk.

Beam's `GroupByKey` gives a key's values in no order. Java's Beam has a `SortValues` extension for that; this
is the same for Python. A value is bytes that begin with what it is to be sorted by.
"""

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator

import apache_beam as beam

BUFFER_BYTES = 48 << 20
_OVERHEAD = 41  # bytes that Python keeps beside a value's own, its place in the list among them
_MAX_RUNS = 64
_LENGTH_BYTES = 4


@beam.ptransform_fn
def SortValues(grouped: beam.PCollection, buffer_bytes: int = BUFFER_BYTES) -> beam.PCollection:
    """(key, values) -> (key, the values in sorted order); see `sorted_values`."""
    sort = beam.MapTuple(lambda key, values: (key, sorted_values(values, buffer_bytes)))
    return grouped | sort.with_output_types(grouped.element_type)


def sorted_values(values: Iterable[bytes], buffer_bytes: int = BUFFER_BYTES) -> Iterable[bytes]:
    """The values in sorted order, to be read as often as one likes.

    Args:
        buffer_bytes: Memory for the values; more are sorted on local disk.

    Example:
        >>> list(sorted_values([b"b", b"c", b"a"], buffer_bytes=50))
        [b'a', b'b', b'c']
    """
    buffer: list[bytes] = []
    used = 0
    spilled: _Spilled | None = None
    for value in values:
        buffer.append(value)
        used += len(value) + _OVERHEAD
        if used > buffer_bytes:
            buffer.sort()
            spilled = spilled or _Spilled()
            spilled.add(buffer)
            buffer, used = [], 0
    buffer.sort()
    if spilled is None:
        return buffer
    spilled.rest = buffer
    return spilled


class _Spilled:
    """Sorted runs in a folder that goes with this object, and a last one in memory."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="psad-sort-")
        weakref.finalize(self, shutil.rmtree, self._folder, True)
        self._runs: list[str] = []
        self.rest: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        yield from heapq.merge(*map(_read, self._runs), self.rest)  # a generator holds on to this object

    def add(self, values: Iterable[bytes]) -> None:
        """Writes a run; of many runs first one is made, so that not too many files are open at once."""
        if len(self._runs) == _MAX_RUNS:
            runs, self._runs = self._runs, []
            self.add(heapq.merge(*map(_read, runs)))
            for run in runs:
                os.remove(run)
        handle, path = tempfile.mkstemp(dir=self._folder)
        self._runs.append(path)
        with os.fdopen(handle, "wb", 1 << 18) as file:
            for value in values:
                file.write(len(value).to_bytes(_LENGTH_BYTES, "big"))
                file.write(value)


def _read(path: str) -> Iterator[bytes]:
    with open(path, "rb", 1 << 18) as file:
        while head := file.read(_LENGTH_BYTES):
            yield file.read(int.from_bytes(head, "big"))
