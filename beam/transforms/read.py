"""The first step: reads the raw records, checks them and sends each to where it is joined.

| record      | sent as                                       | topic         |
|-------------|-----------------------------------------------|---------------|
| impression  | by request id, to find duplicates             | `requests`    |
| row of a flat log | by request id, or by user and time       | `rows`        |
| interaction | by user, in time order                        | `timeline`    |
| user        | by user, before all times                     | `timeline`    |
| item        | by item                                       | `items`       |

A file that is cut short or damaged is reported, and `stop` tells the next steps to make no lists of the rest.
"""

from __future__ import annotations

import marshal
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from psad_tf.beam.columns import Columns
from psad_tf.beam.dead_letters import DeadLetters
from psad_tf.beam.messages import Message, messages, partition_of, report
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sorted_runs import RunWriter
from psad_tf.beam.sources import FileRange, RawRecord, read_range
from psad_tf.beam.transforms.check import ImpressionCheck
from psad_tf.beam.transforms.declared_types import DeclaredTypes
from psad_tf.beam.transforms.rows import ROWS, row_key
from psad_tf.data.records import (
    IMPRESSIONS,
    INTERACTIONS,
    ITEMS,
    USERS,
    RecordError,
    check_attributes,
    check_interaction,
    check_row,
)
from psad_tf.errors import InputError
from psad_tf.features import AGE_SECONDS, FeatureDeclaration

STOP = "stop"
TIMELINE = "timeline"
ITEM_ROWS = "items"

# Order of a user's records of the same second: attributes, then requests, then what came of them.
ATTRIBUTES, REQUEST, INTERACTION = 0, 1, 2
_KEY = struct.Struct(">QB")
_LENGTH = struct.Struct(">H")


class ReadRecords(beam.PTransform):
    """File ranges -> messages: sorted runs of checked records, dead letters and counts.

    Args:
        folder: Where sorted runs are written.
        declaration: The features; a value of the wrong type for its feature makes a dead letter.
        options: The job's options; `latest_time` is set.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__()
        self._arguments = (folder, declaration, options)

    def expand(self, ranges: beam.PCollection) -> beam.PCollection:
        return ranges | beam.ParDo(_ReadRecords(*self._arguments))


class _ReadRecords(beam.DoFn):
    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._folder = folder
        self._declaration = declaration
        self._options = options

    def process(self, file_range: FileRange) -> Iterable[Message]:
        reader = _RangeReader(file_range, self._folder, self._declaration, self._options)
        try:
            for record in read_range(file_range):
                reader.take(record)
        except InputError as error:
            # Told and not raised: a runner would print a traceback, and try the file again in vain.
            yield report("mistakes", [str(error)])
            yield from messages(STOP, [(number, None) for number in range(self._options.num_partitions)])
            return
        yield from reader.close()


class _RangeReader:
    """Checks and sends the records of one file range."""

    def __init__(
        self, file_range: FileRange, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions
    ) -> None:
        self._kind = file_range.kind
        self._name = file_range.name
        self._options = options
        self._partitions = options.num_partitions
        self._types = DeclaredTypes(declaration)
        columns = Columns(file_range.kind, declaration, text=file_range.format == "csv")
        self._columns = columns if file_range.format != "jsonl" else None
        self._flat_columns = columns
        self._dead = DeadLetters(folder, options.num_partitions)
        self._impressions = ImpressionCheck(folder, declaration, options)
        self._rows = RunWriter(folder, ROWS, options.buffer_bytes)
        self._topic = ITEM_ROWS if file_range.kind == ITEMS else TIMELINE
        self._runs = RunWriter(folder, self._topic, options.buffer_bytes)
        self._counts: Counter[str] = Counter()
        self._history_values = [
            feature.name for feature in declaration.history.dense if feature.name != AGE_SECONDS
        ]
        self._pack_history = struct.Struct(f"<{len(self._history_values)}f").pack
        self._take = {
            INTERACTIONS: self._take_interaction,
            USERS: self._take_user,
            ITEMS: self._take_item,
        }.get(file_range.kind, self._take_impression)

    def take(self, record: RawRecord) -> None:
        kind, take, data = self._kind, self._take, record.data
        if kind == IMPRESSIONS and isinstance(data, dict) and "item_id" in data and "candidates" not in data:
            kind, take = ROWS, self._take_row
        self._counts[f"{kind}/read"] += 1
        source = f"{self._name}:{record.place}"
        try:
            if record.error is not None:
                raise record.error
            if self._columns is not None:
                data = self._columns(data)
            elif kind == ROWS:
                data = self._flat_columns(data)
            if not record.plain:
                check_text(data, "")
            take(data, source)
        except RecordError as error:
            self._dead.add(kind, error, source, record.data)
        except OSError:
            raise  # the disk's trouble, not the record's
        except Exception as error:
            raise RuntimeError(f"{source}: this record of {kind} made an error") from error

    def close(self) -> Iterable[Message]:
        yield from messages(self._topic, self._runs.close())
        yield from messages(ROWS, self._rows.close())
        yield from self._impressions.close()
        yield from self._dead.close()
        yield report("counts", dict(self._counts))

    def _take_impression(self, data: Any, source: str) -> None:
        self._impressions.take(data, source)

    def _take_row(self, data: Any, source: str) -> None:
        check_row(data, self._options.latest_time)
        self._types.check_row(data)
        owner, key = row_key(data)
        self._rows.add(partition_of(owner, self._partitions), key, marshal.dumps((data, source), 2))

    def _take_interaction(self, data: Any, source: str) -> None:
        check_interaction(data, self._options.latest_time)
        feedback = data.get("feedback") or {}
        values = []
        for name in self._history_values:
            value = feedback.get(name)
            values.append(float("nan") if value is None else value)
        user_id, item_id = data["user_id"].encode(), data["item_id"].encode()
        self._runs.add(
            partition_of(user_id, self._partitions),
            timeline_key(user_id, data["time"], INTERACTION, item_id),
            self._pack_history(*values) + item_id,
        )

    def _take_user(self, data: Any, source: str) -> None:
        check_attributes(data, "user_id")
        self._types.check_user(data)
        user_id = data["user_id"].encode()
        self._runs.add(
            partition_of(user_id, self._partitions),
            timeline_key(user_id, 0, ATTRIBUTES, b""),
            marshal.dumps((data, source), 2),
        )

    def _take_item(self, data: Any, source: str) -> None:
        check_attributes(data, "item_id")
        self._types.check_item(data)
        self._runs.add(0, data["item_id"].encode(), marshal.dumps((data, source), 2))


def timeline_key(user_id: bytes, time: int, order: int, rest: bytes) -> bytes:
    """Sorts a user's records together, in time order."""
    return _LENGTH.pack(len(user_id)) + user_id + _KEY.pack(time, order) + rest


def split_timeline_key(key: bytes) -> tuple[bytes, int, int]:
    """(user id, time, order) of a `timeline_key`."""
    end = 2 + int.from_bytes(key[:2], "big")
    time, order = _KEY.unpack_from(key, end)
    return key[2:end], time, order


def check_text(value: Any, where: str) -> None:
    """Refuses text that a vocabulary file cannot hold: line breaks and halves of surrogate pairs.

    Raises:
        RecordError: Naming the key.
    """
    if isinstance(value, str):
        if "\n" in value or "\r" in value:
            raise RecordError("line_break", f"{where}: holds a line break")
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise RecordError("not_utf8", f"{where}: cannot be written as UTF-8") from None
    elif isinstance(value, dict):
        for key, each in value.items():
            check_text(key, where)
            check_text(each, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            check_text(each, f"{where}[{index}]")
