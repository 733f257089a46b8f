"""Writes the lists of each shard, in the order of a hash of their request ids.

Each shard comes sorted, so one pass drops a request's later copies, encodes the lists and writes one file a
split: the same bytes whatever the number of workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import AsDict, AsSingleton, DoOutputsTuple, TaggedOutput

from psad_tf.beam.dead_letters import CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import OutputFile
from psad_tf.beam.transforms.items import read_item
from psad_tf.beam.transforms.sort_values import sorted_values
from psad_tf.beam.transforms.split import SplitPoints
from psad_tf.beam.transforms.timeline import ITEM, Joined
from psad_tf.data.encode_record import ListValues, RecordEncoder
from psad_tf.data.list_protos import ListSerializer
from psad_tf.data.records import IMPRESSIONS
from psad_tf.features import SPLITS, FeatureDeclaration

LABEL = "label"
TRAINING = "training"
SHARD_NAME = "{}/part-{:05d}-of-{:05d}.tfrecord.gz"


@beam.ptransform_fn
def WriteLists(
    joined: beam.PCollection,
    folder: str,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
    points: beam.PCollection,
    items: beam.PCollection | None,
) -> DoOutputsTuple:
    """Joined requests by shard -> what the manifest says of the files.

    The output `training` has the `ListValues` of the training lists.

    Args:
        joined: Requests, and items where they come with them.
        points: The one `SplitPoints`, or none.
        items: (Item id, attributes as JSON); None where they come with the requests.
    """
    split = AsSingleton(points, default_value=SplitPoints())
    sides: tuple[Any, ...] = folder, split, {} if items is None else AsDict(items)
    write = _WriteLists(declaration, options).giving(
        "files", dict[str, Any], *sides, **{TRAINING: ListValues}
    )
    return joined | "By shard" >> beam.GroupByKey() | "Write" >> write


class _WriteLists(CountingDoFn):
    def setup(self) -> None:
        self._serialize = ListSerializer(self.declaration)
        kinds: Sequence[Callable[[Any], bool]] = (any, _is_number) * 3  # categorical and dense in turn
        self._coverage = [
            ([f"coverage/{name}" for name in names], has_value)
            for names, has_value in zip(self.declaration.name_groups, kinds, strict=True)
        ]
        self._label_names = frozenset(rule.feedback for rule in self.declaration.label.grades)

    def process(
        self, element: tuple[int, Iterable[bytes]], folder: str, points: SplitPoints, items: dict[str, bytes]
    ) -> Iterable[Any]:
        shard, values = element
        own_items: dict[str, bytes] = {}

        def attributes(item_id: str) -> dict[str, Any] | None:
            text = own_items.get(item_id) or items.get(item_id)
            return None if text is None else orjson.loads(text)

        encoder = RecordEncoder(self.declaration, attributes)
        files: dict[str, OutputFile] = {}
        last = b""
        with contextlib.ExitStack() as opened:
            for value in sorted_values(values, self.options.buffer_bytes):
                if value[:1] == ITEM:
                    item_id, own_items[item_id] = read_item(value)
                    continue
                request, user, history = Joined.of(value)
                data, source = request.record()
                if request.digest == last:
                    detail = f"request_id: {data['request_id']!r} has an earlier impression"
                    yield self.dead(IMPRESSIONS, "duplicate_request", detail, source, data)
                    continue
                last = request.digest
                try:
                    encoded = encoder.encode(data, None if user is None else orjson.loads(user)[0], history)
                    record = self._serialize(encoded)
                except Exception as error:
                    request_id = data["request_id"]
                    raise RuntimeError(f"{source}: request {request_id!r} could not be encoded") from error
                split = data.get("split") or points.split(data["time"])
                if split not in files:
                    name = SHARD_NAME.format(split, shard, self.options.num_shards)
                    file = OutputFile(folder, name, self.options.compression_level)
                    files[split] = opened.enter_context(file)
                files[split].write_tfrecord(record)
                self._count(split, encoded, user, data)
                if split == SPLITS[0]:
                    yield TaggedOutput(TRAINING, encoded)
        for file in files.values():
            yield file.info()

    def _count(self, split: str, values: ListValues, user: bytes | None, data: dict[str, Any]) -> None:
        """Counts a list, what it lacks, and which features have a value in it. For every list: kept fast."""
        counts = self.counts
        counts[f"lists/{split}"] += 1
        counts[f"candidates/{split}"] += len(values.labels)
        counts[f"positives/{split}"] += sum([label[0] > 0 for label in values.labels])
        past = {strings[0][0] for strings in values.history_categorical}
        positives: list[bool] = []  # of what was shown, whether the item is in the history
        negatives: list[bool] = []
        for label, strings, slot in zip(
            values.labels, values.categorical, values.shown_position, strict=True
        ):
            if slot >= 0:
                (positives if label[0] > 0 else negatives).append(strings[0][0] in past)
        for kind, found in (("positives", positives), ("negatives", negatives)):
            counts[f"history/{kind}"] += len(found)
            counts[f"history/{kind}_in_history"] += sum(found)
        counts["joins/lists_without_history"] += not values.history_categorical
        counts["joins/lists_without_user"] += user is None
        counts["joins/candidates_without_item"] += values.unknown_items
        rows: tuple[Iterable[Sequence[Any]], ...] = (
            (values.context_categorical,), (values.context_dense,), values.categorical, values.dense,
            values.history_categorical, list(zip(*values.history_dense, strict=True)),
        )  # fmt: skip
        for (keys, has_value), each in zip(self._coverage, rows, strict=True):
            for column, key in enumerate(keys):
                for row in each:
                    if has_value(row[column]):
                        counts[key] += 1
                        break
        feedback = [candidate.get("feedback") for candidate in data["candidates"]]
        feedback += (data.get("feedback") or {}).values()
        if any(each and not self._label_names.isdisjoint(each) for each in feedback):
            counts[f"coverage/{LABEL}"] += 1


def _is_number(value: float) -> bool:
    return value == value
