"""Items: one row of each, and for large tables the rows that each shard needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from psad_tf.beam.dead_letters import DEAD, CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import to_json
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.beam.transforms.timeline import ITEM
from psad_tf.data.encode_record import sortable, text_of
from psad_tf.data.records import ITEMS, RecordError
from psad_tf.features import FeatureDeclaration

SHIPPED = "shipped"
_ROW, _ASKER = b"\0", b"\1"


class JoinItems(beam.PTransform):
    """Item rows and, for a large table, which shard needs which item, both by item id -> declared attributes.

    The main output has (item id, attributes as JSON); the output `shipped` has them by shard, as the values
    that `read_item` reads. Of several rows of one item the first by its bytes is kept; the others are dead
    letters.

    Args:
        declaration: The features; other attributes are left out.
        options: The job's options.
    """

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__()
        self._buffer_bytes = options.buffer_bytes
        groups = (
            declaration.history.categorical,
            declaration.candidate_categorical,
            declaration.candidate_dense,
        )
        self._names = sorted({feature.name for group in groups for feature in group} - {"item_id"})

    def expand(self, parts: tuple[beam.PCollection, beam.PCollection]) -> DoOutputsTuple:
        rows, needed = parts
        return (
            (
                rows | "Rows" >> beam.Map(_tagged, _ROW).with_output_types(tuple[bytes, bytes]),
                needed | "Askers" >> beam.Map(_tagged, _ASKER).with_output_types(tuple[bytes, bytes]),
            )
            | beam.Flatten()
            | "By item" >> beam.GroupByKey()
            | "Sort" >> SortValues(self._buffer_bytes)
            | "Keep one"
            >> beam.ParDo(_KeepOne(self._names))
            .with_output_types(tuple[str, bytes], **{DEAD: bytes, SHIPPED: tuple[int, bytes]})
            .with_outputs(DEAD, SHIPPED, main="items")
        )


class _KeepOne(CountingDoFn):
    def __init__(self, names: list[str]) -> None:
        self._names = names

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterable[Any]:
        item_id, values = element[0].decode(), element[1]
        kept: bytes | None = None
        last_asker = b""
        for value in values:
            if value[:1] == _ASKER:
                if kept is not None and value != last_asker:
                    last_asker = value
                    shard = int.from_bytes(value[1:], "big")
                    yield TaggedOutput(SHIPPED, (shard, ITEM + sortable(item_id) + kept))
                continue
            data, source = orjson.loads(value[1:])
            if kept is None:
                self.counts["items/kept"] += 1
                kept = to_json({name: data[name] for name in self._names if data.get(name) is not None})
                yield item_id, kept
            else:
                detail = f"item_id: {item_id!r} has another row"
                yield self.dead(ITEMS, RecordError("duplicate_item_row", detail), source, data)


def _tagged(keyed: tuple[bytes, bytes], tag: bytes) -> tuple[bytes, bytes]:
    return keyed[0], tag + keyed[1]


def read_item(value: bytes) -> tuple[str, bytes]:
    """(item id, attributes as JSON) of a shipped item."""
    end = value.index(b"\0\0{", 1) + 2
    return text_of(value[1:end]), value[end:]
