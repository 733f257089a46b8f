"""Writes the lists of each shard, in the order of a hash of their request ids.

Each shard comes sorted, so one pass drops a request's later copies, encodes the lists and writes one file a
split: the same bytes whatever the number of workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from psad_tf.beam.dead_letters import DEAD, CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import OutputFile
from psad_tf.beam.transforms.check import unpack
from psad_tf.beam.transforms.items import read_item
from psad_tf.beam.transforms.sort_values import sorted_values
from psad_tf.beam.transforms.split import SplitPoints
from psad_tf.beam.transforms.timeline import ITEM, Joined
from psad_tf.data.encode_record import ListValues, RecordEncoder, Strings
from psad_tf.data.list_protos import ListSerializer
from psad_tf.data.records import IMPRESSIONS, RecordError
from psad_tf.features import HISTORY_PREFIX, SPLITS, FeatureDeclaration

LABEL = "label"
TRAINING = "training"
SHARD_NAME = "{}/part-{:05d}-of-{:05d}.tfrecord.gz"
_TRAIN = SPLITS[0]


class WriteLists(beam.PTransform):
    """Joined requests by shard -> what the manifest says of the files.

    The output `training` has the `ListValues` of the training lists.

    Args:
        folder: The output folder.
        declaration: The features.
        options: The job's options.
        points: A PCollection of the split points.
        items: A PCollection of (item id, attributes as JSON); None where they come with the requests.
    """

    def __init__(
        self,
        folder: str,
        declaration: FeatureDeclaration,
        options: PreprocessOptions,
        points: beam.PCollection,
        items: beam.PCollection | None,
    ) -> None:
        super().__init__()
        self._write = _WriteLists(folder, declaration, options)
        self._points = beam.pvalue.AsSingleton(points, default_value=SplitPoints())
        self._items: Any = {} if items is None else beam.pvalue.AsDict(items)

    def expand(self, joined: beam.PCollection) -> DoOutputsTuple:
        return (
            joined
            | "By shard" >> beam.GroupByKey()
            | "Write"
            >> beam.ParDo(self._write, self._points, self._items)
            .with_output_types(dict[str, Any], **{DEAD: bytes, TRAINING: ListValues})
            .with_outputs(DEAD, TRAINING, main="files")
        )


class _WriteLists(CountingDoFn):
    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._folder = folder
        self._declaration = declaration
        self._options = options

    def setup(self) -> None:
        declaration = self._declaration
        history = declaration.history
        self._serialize = ListSerializer(declaration)
        self._context = [feature.name for feature in declaration.context_categorical]
        self._context_dense = [feature.name for feature in declaration.context_dense]
        self._history = [HISTORY_PREFIX + feature.name for feature in history.categorical]
        self._history_dense = [HISTORY_PREFIX + feature.name for feature in history.dense]
        self._candidate = [feature.name for feature in declaration.candidate_categorical]
        self._candidate_dense = [feature.name for feature in declaration.candidate_dense]
        self._label_names = frozenset(rule.feedback for rule in declaration.label.grades)

    def process(
        self, element: tuple[int, Iterable[bytes]], points: SplitPoints, items: dict[str, bytes]
    ) -> Iterable[Any]:
        shard, values = element
        own_items: dict[str, bytes] = {}

        def attributes(item_id: str) -> dict[str, Any] | None:
            text = own_items.get(item_id) or items.get(item_id)
            return None if text is None else orjson.loads(text)

        encoder = RecordEncoder(self._declaration, attributes)
        files: dict[str, OutputFile] = {}
        last = b""
        with contextlib.ExitStack() as opened:
            for value in sorted_values(values, self._options.buffer_bytes):
                if value[:1] == ITEM:
                    item_id, text = read_item(value)
                    own_items[item_id] = text
                    continue
                request, user, history = Joined.of(value)
                data, source = orjson.loads(unpack(request.packed))
                if request.digest == last:
                    detail = f"request_id: {data['request_id']!r} has an earlier impression"
                    yield self.dead(IMPRESSIONS, RecordError("duplicate_request", detail), source, data)
                    continue
                last = request.digest
                try:
                    encoded = encoder.encode(data, _row(user), history)
                    record = self._serialize(encoded)
                except Exception as error:
                    request_id = data["request_id"]
                    raise RuntimeError(f"{source}: request {request_id!r} could not be encoded") from error
                split = data.get("split") or points.split(data["time"])
                if split not in files:
                    name = SHARD_NAME.format(split, shard, self._options.num_shards)
                    files[split] = opened.enter_context(
                        OutputFile(self._folder, name, self._options.compression_level)
                    )
                files[split].write_tfrecord(record)
                self._count(split, encoded, user, data)
                if split == _TRAIN:
                    yield TaggedOutput(TRAINING, encoded)
        for file in files.values():
            yield file.info()

    def _count(self, split: str, values: ListValues, user: bytes | None, data: dict[str, Any]) -> None:
        """Counts a list, what it lacks, and which features have a value in it."""
        counts = self.counts
        counts[f"lists/{split}"] += 1
        counts[f"candidates/{split}"] += len(values.labels)
        counts[f"positives/{split}"] += sum([label[0] > 0 for label in values.labels])
        past = {strings[0][0] for strings in values.history_categorical}
        for (relevance, _), strings, slot in zip(
            values.labels, values.categorical, values.shown_position, strict=True
        ):
            if slot >= 0:
                kind = "positives" if relevance > 0 else "negatives"
                counts[f"history/{kind}"] += 1
                counts[f"history/{kind}_in_history"] += strings[0][0] in past
        counts["joins/lists_without_history"] += not values.history_categorical
        counts["joins/lists_without_user"] += user is None
        counts["joins/candidates_without_item"] += values.unknown_items
        covered = [
            *_with_strings(self._context, [values.context_categorical]),
            *_with_numbers(self._context_dense, [[each] for each in values.context_dense]),
            *_with_strings(self._history, values.history_categorical),
            *_with_numbers(self._history_dense, values.history_dense),
            *_with_strings(self._candidate, values.categorical),
            *_with_numbers(self._candidate_dense, list(zip(*values.dense, strict=True))),
        ]
        feedback = [candidate.get("feedback") for candidate in data["candidates"]]
        feedback += (data.get("feedback") or {}).values()
        if any(each and not self._label_names.isdisjoint(each) for each in feedback):
            covered.append(LABEL)
        for name in covered:
            counts[f"coverage/{name}"] += 1


def _with_strings(names: list[str], rows: Sequence[Sequence[Strings]]) -> list[str]:
    """The features that have a string in some row."""
    return [
        name
        for index, name in enumerate(names)
        if rows and (any(rows[0][index]) or any(any(row[index]) for row in rows))  # mostly the first has one
    ]


def _with_numbers(names: list[str], columns: Sequence[Sequence[float]]) -> list[str]:
    """The features whose column has a number."""
    return [
        name
        for name, column in zip(names, columns, strict=True)
        if column and (column[0] == column[0] or any(value == value for value in column))
    ]


def _row(user: bytes | None) -> dict[str, Any] | None:
    return None if user is None else orjson.loads(user)[0]
