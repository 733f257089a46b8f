"""Sorting more than memory holds, on any runner: sorted runs on the shared file system.

Beam's `GroupByKey` gives a key's values in no order, and several runners hold all of them in memory. Joining
a history as of a moment needs the values of a user in time order, and a user may have a million. So a step
writes its records with a `RunWriter`: a buffer of bounded size, sorted when it is full and written as one
file that holds a *run* for every partition. What travels through Beam is the small `Run` that says where to
find it. `merge_runs` then reads a partition's runs together in the order of their keys, holding one block of
each. Java's Beam offers the same as its SortValues extension; Python's does not.

A step that is tried again writes new files under new names, and only the runs it returns are read: a file
left by a failed try is never seen.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import struct
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

Entry = tuple[bytes, bytes]

_LENGTHS = struct.Struct("<II")
_BLOCK_BYTES = 1 << 18
_ENTRY_OVERHEAD = 160  # bytes that Python keeps beside an entry's own
BUFFER_BYTES = 48 << 20
FAN_IN = 64


class Run(NamedTuple):
    """Where a sorted run lies: `length` bytes of the file at `path`, from `offset`."""

    path: str
    offset: int
    length: int
    records: int


class RunWriter:
    """Takes (partition, key, value) in any order and leaves sorted runs in files.

    Args:
        folder: Where to write, on any Beam file system.
        name: Start of the files' names.
        buffer_bytes: Memory to use before a run is written.
    """

    def __init__(self, folder: str, name: str, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._folder = folder
        self._name = name
        self._limit = buffer_bytes
        self._used = 0
        self._buffers: dict[int, list[Entry]] = {}
        self._runs: list[tuple[int, Run]] = []

    def add(self, partition: int, key: bytes, value: bytes) -> None:
        """Adds one entry."""
        buffer = self._buffers.get(partition)
        if buffer is None:
            buffer = self._buffers[partition] = []
        buffer.append((key, value))
        self._used += len(key) + len(value) + _ENTRY_OVERHEAD
        if self._used >= self._limit:
            self._flush()

    def close(self) -> list[tuple[int, Run]]:
        """Writes what is left; returns every (partition, run)."""
        self._flush()
        runs, self._runs = self._runs, []
        return runs

    def _flush(self) -> None:
        if not self._buffers:
            return
        path = FileSystems.join(self._folder, f"{self._name}-{uuid.uuid4().hex}")
        offset = 0
        with contextlib.closing(create(path)) as file:
            for partition in sorted(self._buffers):
                entries = self._buffers.pop(partition)
                entries.sort()
                start = offset
                for first in range(0, len(entries), 1000):
                    block = _encoded(entries[first : first + 1000])
                    file.write(block)
                    offset += len(block)
                self._runs.append((partition, Run(path, start, offset - start, len(entries))))
        self._used = 0


def create(path: str) -> BinaryIO:
    """Opens a new file for writing on any Beam file system, without compression by its name."""
    return FileSystems.create(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)


def read_run(run: Run) -> Iterator[Entry]:
    """The entries of one run, in order."""
    with contextlib.closing(
        FileSystems.open(run.path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)
    ) as file:
        file.seek(run.offset)
        left = run.length
        pending = b""
        unpack, head = _LENGTHS.unpack_from, _LENGTHS.size
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise OSError(f"{run.path}: {left} bytes are missing at the end")
            left -= len(block)
            pending = pending + block if pending else block
            position, size = 0, len(pending)
            while position + head <= size:
                key_length, value_length = unpack(pending, position)
                middle = position + head + key_length
                end = middle + value_length
                if end > size:
                    break
                yield pending[position + head : middle], pending[middle:end]
                position = end
            pending = pending[position:]


def merge_runs(runs: Iterable[Run], fan_in: int = FAN_IN) -> Iterator[Entry]:
    """The entries of several runs as one sorted stream.

    The order, by key and then by value, does not depend on how entries were spread over the runs. At most
    `fan_in` files are open at once; more runs are first merged into fewer, in a local temporary folder.
    """
    waiting: Sequence[Run] = sorted(run for run in runs if run.records)
    if len(waiting) <= fan_in:
        yield from _merged(waiting)
        return
    with tempfile.TemporaryDirectory(prefix="psad-merge-") as folder:
        while len(waiting) > fan_in:
            fewer = []
            for number, first in enumerate(range(0, len(waiting), fan_in)):
                group = waiting[first : first + fan_in]
                path = os.path.join(folder, f"{number}-{uuid.uuid4().hex}")
                fewer.append(_write_run(path, _merged(group), sum(run.records for run in group)))
                for run in group:
                    if run.path.startswith(folder):
                        os.remove(run.path)
            waiting = fewer
        yield from _merged(waiting)


def _merged(runs: Sequence[Run]) -> Iterator[Entry]:
    if len(runs) == 1:
        return read_run(runs[0])
    return iter(heapq.merge(*map(read_run, runs)))


def _write_run(path: str, entries: Iterator[Entry], records: int) -> Run:
    length = 0
    with open(path, "wb") as file:
        for entry in entries:
            length += file.write(_encoded((entry,)))
    return Run(path, 0, length, records)


def _encoded(entries: Iterable[Entry]) -> bytes:
    pack = _LENGTHS.pack
    return b"".join(part for key, value in entries for part in (pack(len(key), len(value)), key, value))
