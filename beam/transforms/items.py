"""Items: one row of each, and for large tables the rows that each shard needs."""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from psad_tf.beam.dead_letters import CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import to_json
from psad_tf.beam.transforms.timeline import ITEM
from psad_tf.data.records import ITEMS
from psad_tf.features import FeatureDeclaration

SHIPPED = "shipped"


@beam.ptransform_fn
def JoinItems(
    parts: tuple[beam.PCollection, ...],
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
) -> DoOutputsTuple:
    """Item rows and, for a large table, which shards need which item, both by item id -> declared attributes.

    The main output has (item id, attributes as JSON); the output `shipped` has them by shard, as the values
    that `read_item` reads. Of several rows of one item the first by its bytes is kept; the others are dead
    letters.
    """
    keep = _KeepOne(declaration, options).giving("items", tuple[str, bytes], **{SHIPPED: tuple[int, bytes]})
    return parts | "By item" >> beam.CoGroupByKey() | "Keep one" >> keep


class _KeepOne(CountingDoFn):
    def setup(self) -> None:
        self._names = sorted(self.declaration.raw_widths["features"].keys() - {"item_id"})

    def process(self, element: tuple[bytes, tuple[Iterable[Any], ...]]) -> Iterable[Any]:
        item_id, (rows, *shards) = element[0].decode(), element[1]
        for number, (data, source) in enumerate(map(orjson.loads, sorted(rows))):
            if number:
                detail = f"item_id: {item_id!r} has another row"
                yield self.dead(ITEMS, "duplicate_item_row", detail, source, data)
                continue
            self.counts["items/kept"] += 1
            kept = to_json({name: data[name] for name in self._names if data.get(name) is not None})
            yield item_id, kept
            for shard in set().union(*shards):
                yield TaggedOutput(SHIPPED, (shard, ITEM + marshal.dumps((item_id, kept))))


def read_item(value: bytes) -> tuple[str, bytes]:
    """(item id, attributes as JSON) of a shipped item."""
    return marshal.loads(value[1:])
