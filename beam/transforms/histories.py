"""Joins every request with its user, its candidates' items and the user's history as of the request.

A partition's records arrive sorted by user and time, attributes first, and at the same second requests before
interactions. So one pass suffices, with the last H interactions of one user in memory, however many the user
has; and an interaction at or after a request's time cannot have been read when the list is encoded: nothing
leaks from the future.
"""

from __future__ import annotations

import hashlib
import marshal
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

from psad_tf.beam.dead_letters import DeadLetters
from psad_tf.beam.messages import Handler, Message, Step, messages, of_topic, report
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sorted_runs import Run, RunWriter, merge_runs
from psad_tf.beam.transforms.encode import EncodedList, ListEncoder, Past
from psad_tf.beam.transforms.items import ITEM_TABLE, ItemTable
from psad_tf.beam.transforms.presence import Presence
from psad_tf.beam.transforms.read import ATTRIBUTES, REQUEST, TIMELINE, split_timeline_key
from psad_tf.beam.transforms.split import NO_SPLIT, SPLIT_POINTS, SplitPoints
from psad_tf.beam.transforms.statistics import DenseStatistics
from psad_tf.beam.transforms.vocabularies import ValueCounter
from psad_tf.data.records import USERS, RecordError
from psad_tf.features import AGE_SECONDS, SPLITS, FeatureDeclaration

LISTS = "lists"
_TRAIN = SPLITS[0]
# Within a shard lists stand in the order of a hash: neither by user nor by time.
_ORDER_BYTES = 8


class JoinHistories(Step):
    """Timeline runs, the item table and split points -> runs of encoded lists by shard.

    Args:
        folder: Where sorted runs are written.
        declaration: The features.
        options: The job's options.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__(_JoinHistories(folder, declaration, options))


class _JoinHistories(Handler):
    topics = (TIMELINE, SPLIT_POINTS, ITEM_TABLE)

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._folder = folder
        self._declaration = declaration
        self._options = options

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        points = next(iter(of_topic(received, SPLIT_POINTS)), NO_SPLIT)
        table_path = next(iter(of_topic(received, ITEM_TABLE)), None)
        with ItemTable(table_path) as items:
            encoder = ListEncoder(self._declaration, items.attributes)
            dead = DeadLetters(self._folder, self._options.num_partitions)
            lists = _ListCollector(
                self._folder, self._declaration, self._options, encoder, SplitPoints(*points)
            )
            for data, encoded, history in joined(
                of_topic(received, TIMELINE), self._declaration, encoder, dead, lists.counts, lists.presence
            ):
                lists.add(data, encoded, history)
            yield from dead.close()
            yield from lists.close()


def joined(
    runs: list[Run],
    declaration: FeatureDeclaration,
    encoder: ListEncoder,
    dead: DeadLetters,
    counts: Counter[str],
    presence: Presence,
) -> Iterator[tuple[dict[str, Any], EncodedList, deque[Past]]]:
    """The lists of a partition, each with the history it was encoded with, oldest first.

    Args:
        runs: Timeline runs.
        declaration: The features.
        encoder: Encodes a list.
        dead: Takes users' second rows.
        counts: Counted up: users and interactions kept, and lists that lack a part.
        presence: Takes note of the history's features.

    Raises:
        RuntimeError: Encoding failed; it names the request.
    """
    feedback_names = [feature.name for feature in declaration.history.dense if feature.name != AGE_SECONDS]
    unpack = struct.Struct(f"<{len(feedback_names)}f").unpack_from
    feedback_bytes = 4 * len(feedback_names)
    history: deque[Past] = deque(maxlen=declaration.history.length)
    user_id, user, has_row = b"", encoder.user("", None), False
    interactions = 0
    for key, value in merge_runs(runs):
        key_user, time, order = split_timeline_key(key)
        if key_user != user_id:
            user_id, user, has_row = key_user, encoder.user(key_user.decode(), None), False
            history.clear()
        if order == REQUEST:
            data, source = marshal.loads(value)
            try:
                encoded = encoder.encode(data, user, history)
            except Exception as error:
                request_id = data["request_id"]
                raise RuntimeError(f"{source}: request {request_id!r} could not be encoded") from error
            counts["joins/lists_without_history"] += not history
            counts["joins/lists_without_user"] += not user.known
            yield data, encoded, history
        elif order == ATTRIBUTES:
            data, source = marshal.loads(value)
            if has_row:
                detail = f"user_id: {data['user_id']!r} has another row"
                dead.add(USERS, RecordError("duplicate_user_row", detail), source, data)
                continue
            has_row = True
            counts["users/kept"] += 1
            user = encoder.user(data["user_id"], data)
        else:
            item_id = value[feedback_bytes:].decode()
            past = Past(time, item_id, encoder.item(item_id), unpack(value))
            if presence.history_absent:
                presence.see_past(past)
            history.append(past)
            interactions += 1
    counts["interactions/kept"] += interactions


class _ListCollector:
    """Sends lists to their shards; counts and summarizes the training lists."""

    def __init__(
        self,
        folder: str,
        declaration: FeatureDeclaration,
        options: PreprocessOptions,
        encoder: ListEncoder,
        points: SplitPoints,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.presence = Presence(declaration)
        self._points = points
        self._num_shards = options.num_shards
        self._writer = RunWriter(folder, LISTS, options.buffer_bytes)
        self._values = ValueCounter(folder, declaration, encoder, options.num_partitions)
        dense = (*declaration.context_dense, *declaration.history.dense, *declaration.candidate_dense)
        self._statistics = DenseStatistics(
            declaration.dense_keys, [feature.transform == "log1p_standardize" for feature in dense]
        )
        self._history_dense = [feature.name for feature in declaration.history.dense]

    def add(self, data: dict[str, Any], encoded: EncodedList, history: deque[Past]) -> None:
        split = data.get("split") or self._points.split(data["time"])
        digest = hashlib.blake2b(data["request_id"].encode(), digest_size=_ORDER_BYTES).digest()
        shard = int.from_bytes(digest[:4], "big") * self._num_shards >> 32
        self._writer.add(
            SPLITS.index(split) * self._num_shards + shard,
            digest + data["request_id"].encode(),
            encoded.data,
        )
        self.counts[f"lists/{split}"] += 1
        self.counts[f"candidates/{split}"] += len(data["candidates"])
        self.presence.see_list(data, encoded)
        self.counts["joins/candidates_without_item"] += [view.known for view in encoded.views].count(False)
        if split == _TRAIN:
            self._values.add(encoded, history)
            self._summarize(data["time"], encoded, history)

    def close(self) -> Iterable[Message]:
        yield from messages(LISTS, self._writer.close())
        yield from self._values.close()
        yield report("counts", dict(self.counts))
        yield report("statistics", self._statistics.close())
        yield report("present", self.presence.present)

    def _summarize(self, time: int, encoded: EncodedList, history: deque[Past]) -> None:
        add = self._statistics.add
        index = 0
        for value in encoded.context_dense:
            add(index, (value,))
            index += 1
        position = 0
        for name in self._history_dense:
            if name == AGE_SECONDS:
                add(index, [time - past.time for past in history])
            else:
                add(index, [past.feedback[position] for past in history])
                position += 1
            index += 1
        for column in zip(*encoded.candidate_dense, strict=True):
            add(index, column)
            index += 1
