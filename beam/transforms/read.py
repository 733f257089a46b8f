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

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from psad_tf.beam.columns import Columns
from psad_tf.beam.dead_letters import CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sources import SURROGATE, FileRange, read_range
from psad_tf.beam.transforms.check import ATTRIBUTES, INTERACTION, ImpressionCheck, to_json
from psad_tf.beam.transforms.rows import ROWS, keyed_row
from psad_tf.data.common_forms import CommonForms
from psad_tf.data.encode_record import RecordEncoder
from psad_tf.data.records import (
    IMPRESSIONS,
    INTERACTIONS,
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


@beam.ptransform_fn
def ReadRecords(
    start: Any, ranges: Sequence[FileRange], declaration: FeatureDeclaration, options: PreprocessOptions
) -> DoOutputsTuple:
    """The start of a pipeline -> of these parts of files the records, by the outputs of the table above."""
    others = {ROWS: Keyed, TIMELINE: Keyed, ITEM_ROWS: Keyed, MISTAKES: str}
    read = _ReadRange(declaration, options).giving(REQUESTS, Keyed, **others)
    return start | "Files" >> beam.Create(ranges) | "Spread" >> beam.Reshuffle() | "Read" >> read


class _ReadRange(CountingDoFn):
    """Checks the records of one file range."""

    def setup(self) -> None:
        self._widths = self.declaration.raw_widths
        self._impressions = ImpressionCheck(self.declaration, self.options)
        self._interaction = RecordEncoder(self.declaration).interaction
        self._common = CommonForms(self.declaration, self.options.time_zone)

    def process(self, file_range: FileRange) -> Iterable[Any]:
        columns = Columns(file_range.kind, self.declaration, text=file_range.format == "csv")
        flat = file_range.format != "jsonl"
        try:
            for place, raw, error, plain in read_range(file_range):
                data, kind = raw, file_range.kind
                if (
                    kind == IMPRESSIONS
                    and type(data) is dict
                    and "item_id" in data
                    and "candidates" not in data
                ):
                    kind = ROWS
                self.counts[f"{kind}/read"] += 1
                source = f"{file_range.name}:{place}"
                try:
                    if error is not None:
                        raise error
                    if flat or kind == ROWS:
                        data = columns(data)
                    try:
                        taken = self._take(kind, data, source, plain)
                    except RecordError:
                        taken = self._take(kind, self._common(data, kind), source)
                    yield taken
                except RecordError as wrong:
                    yield self.dead(kind, wrong.reason, wrong.detail, source, raw)
                except Exception as defect:
                    raise RuntimeError(f"{source}: this record of {kind} made an error") from defect
        except InputError as mistake:
            yield TaggedOutput(MISTAKES, str(mistake))

    def _take(self, kind: str, data: Any, source: str, plain: bool = False) -> Any:
        latest = self.options.latest_time
        if not plain:
            check_text(data, "")
        if kind == IMPRESSIONS:
            return self._impressions.take(data, source, self.counts)
        if kind == INTERACTIONS:
            check_interaction(data, latest)
            self.counts["interactions/kept"] += 1
            value = self._interaction(data["time"], data["item_id"], data.get("feedback"))
            return TaggedOutput(TIMELINE, (data["user_id"].encode(), value[:8] + INTERACTION + value[8:]))
        if kind == ROWS:
            check_row(data, latest, self._widths)
            return TaggedOutput(ROWS, keyed_row(data, source))
        key = "user_id" if kind == USERS else "item_id"
        check_attributes(data, key, self._widths)
        owner, row = data[key].encode(), to_json([data, source])
        if kind == USERS:
            return TaggedOutput(TIMELINE, (owner, bytes(8) + ATTRIBUTES + row))
        return TaggedOutput(ITEM_ROWS, (owner, row))


def check_text(value: Any, where: str) -> None:
    """Refuses text that a vocabulary file cannot hold: line breaks and halves of surrogate pairs.

    Raises:
        RecordError: Naming the key.
    """
    if isinstance(value, str):
        if "\n" in value or "\r" in value:
            raise RecordError("line_break", f"{where}: holds a line break")
        if not value.isascii() and SURROGATE.search(value):
            raise RecordError("not_utf8", f"{where}: cannot be written as UTF-8")
    elif isinstance(value, dict):
        for key, each in value.items():
            check_text(key, where)
            check_text(each, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            check_text(each, f"{where}[{index}]")
