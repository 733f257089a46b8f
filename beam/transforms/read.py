"""The first step: reads the raw records, checks them and gives each to whom it is joined with.

| record             | output     | key, and what the value is                                          |
|--------------------|------------|---------------------------------------------------------------------|
| impression         | `requests` | user id; a travelling impression (`check.py`)                       |
| row of a flat log  | `rows`     | request id, or user id where it has none (`rows.py`)                |
| interaction        | `timeline` | user id; what `RecordEncoder.interaction` makes of it, with an order |
| user               | `timeline` | user id; the row and its source, before all times                   |
| item               | `items`    | item id; the row and its source                                     |

Dead letters are the output `dead`; a file that is cut short or damaged is told as `mistakes`, because of an
exception a runner would print a traceback, and try the file again in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from psad_tf.beam.columns import Columns
from psad_tf.beam.dead_letters import DEAD, CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sources import FileRange, read_range
from psad_tf.beam.transforms.check import ATTRIBUTES, INTERACTION, DeclaredTypes, ImpressionCheck, to_json
from psad_tf.beam.transforms.rows import ROWS, keyed_row
from psad_tf.data.common_forms import CommonForms
from psad_tf.data.encode_record import RecordEncoder
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
from psad_tf.features import FeatureDeclaration

REQUESTS, TIMELINE, ITEM_ROWS, MISTAKES = "requests", "timeline", "items", "mistakes"
Keyed = tuple[bytes, bytes]


class ReadRecords(beam.PTransform):
    """The start of a pipeline -> the outputs of the table above.

    Args:
        ranges: The files' parts to read.
        declaration: The features; a value of the wrong type for its feature makes a dead letter.
        options: The job's options; `latest_time` is set.
    """

    def __init__(
        self, ranges: Sequence[FileRange], declaration: FeatureDeclaration, options: PreprocessOptions
    ) -> None:
        super().__init__()
        self._ranges = ranges
        self._reader = _ReadRange(declaration, options)

    def expand(self, start: Any) -> DoOutputsTuple:
        outputs = {ROWS: Keyed, TIMELINE: Keyed, ITEM_ROWS: Keyed, DEAD: bytes, MISTAKES: str}
        return (
            start
            | "Files" >> beam.Create(self._ranges)
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(self._reader)
            .with_output_types(Keyed, **outputs)
            .with_outputs(*outputs, main=REQUESTS)
        )


class _ReadRange(CountingDoFn):
    """Checks the records of one file range."""

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._declaration = declaration
        self._options = options

    def setup(self) -> None:
        self._types = DeclaredTypes(self._declaration)
        self._impressions = ImpressionCheck(self._declaration, self._options)
        self._interaction = RecordEncoder(self._declaration).interaction
        self._common = CommonForms(self._declaration, self._options.time_zone)

    def process(self, file_range: FileRange) -> Iterable[Any]:
        columns = Columns(file_range.kind, self._declaration, text=file_range.format == "csv")
        flat = file_range.format != "jsonl"
        take = self._take
        try:
            for record in read_range(file_range):
                data, kind = record.data, file_range.kind
                if (
                    kind == IMPRESSIONS
                    and type(data) is dict
                    and "item_id" in data
                    and "candidates" not in data
                ):
                    kind = ROWS
                self.counts[f"{kind}/read"] += 1
                source = f"{file_range.name}:{record.place}"
                try:
                    if record.error is not None:
                        raise record.error
                    if flat or kind == ROWS:
                        data = columns(data)
                    try:
                        if not record.plain:
                            check_text(data, "")
                        taken = take[kind](self, data, source)
                    except RecordError:
                        data = self._common(data, kind)
                        check_text(data, "")
                        taken = take[kind](self, data, source)
                    yield taken
                except RecordError as error:
                    yield self.dead(kind, error, source, record.data)
                except Exception as error:
                    raise RuntimeError(f"{source}: this record of {kind} made an error") from error
        except InputError as error:
            yield TaggedOutput(MISTAKES, str(error))

    def _take_impression(self, data: Any, source: str) -> Keyed:
        return self._impressions.take(data, source, self.counts)

    def _take_row(self, data: Any, source: str) -> TaggedOutput:
        check_row(data, self._options.latest_time)
        self._types.check_row(data)
        return TaggedOutput(ROWS, keyed_row(data, source))

    def _take_interaction(self, data: Any, source: str) -> TaggedOutput:
        check_interaction(data, self._options.latest_time)
        self.counts["interactions/kept"] += 1
        value = self._interaction(data["time"], data["item_id"], data.get("feedback"))
        return TaggedOutput(TIMELINE, (data["user_id"].encode(), value[:8] + INTERACTION + value[8:]))

    def _take_user(self, data: Any, source: str) -> TaggedOutput:
        check_attributes(data, "user_id")
        self._types.check_user(data)
        value = bytes(8) + ATTRIBUTES + to_json([data, source])
        return TaggedOutput(TIMELINE, (data["user_id"].encode(), value))

    def _take_item(self, data: Any, source: str) -> TaggedOutput:
        check_attributes(data, "item_id")
        self._types.check_item(data)
        return TaggedOutput(ITEM_ROWS, (data["item_id"].encode(), to_json([data, source])))

    _take: dict[str, Callable[[Any, Any, str], Any]] = {  # noqa: RUF012 (never changed)
        IMPRESSIONS: _take_impression,
        ROWS: _take_row,
        INTERACTIONS: _take_interaction,
        USERS: _take_user,
        ITEMS: _take_item,
    }


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
