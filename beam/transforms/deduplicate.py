"""Keeps one impression of each request id: the earliest, and of equally early ones the first by its bytes."""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from typing import Any

from psad_tf.beam.dead_letters import DeadLetters
from psad_tf.beam.messages import Handler, Message, Step, messages, of_topic, partition_of
from psad_tf.beam.sorted_runs import RunWriter, merge_runs
from psad_tf.beam.transforms.check import REQUESTS
from psad_tf.beam.transforms.read import REQUEST, STOP, TIMELINE, timeline_key
from psad_tf.beam.transforms.split import TimeCounter
from psad_tf.data.records import IMPRESSIONS, RecordError


class Deduplicate(Step):
    """Runs of impressions by request id -> runs of impressions by user and time.

    A request id's other impressions are dead letters, whichever user they name.

    Args:
        folder: Where sorted runs are written.
        partitions: How many partitions to send to.
        buffer_bytes: Memory to sort in.
    """

    def __init__(self, folder: str, partitions: int, buffer_bytes: int) -> None:
        super().__init__(_Deduplicate(folder, partitions, buffer_bytes))


class _Deduplicate(Handler):
    topics = (REQUESTS, STOP)

    def __init__(self, folder: str, partitions: int, buffer_bytes: int) -> None:
        self._folder = folder
        self._partitions = partitions
        self._buffer_bytes = buffer_bytes

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        if of_topic(received, STOP):
            return
        dead = DeadLetters(self._folder, self._partitions)
        writer = RunWriter(self._folder, TIMELINE, self._buffer_bytes)
        times = TimeCounter(self._folder)
        last = b""
        for key, value in merge_runs(of_topic(received, REQUESTS)):
            request_id = key[2:-8]
            if request_id == last:
                data, source = marshal.loads(value)
                detail = f"request_id: {request_id.decode()!r} has an earlier impression"
                dead.add(IMPRESSIONS, RecordError("duplicate_request", detail), source, data)
                continue
            last = request_id
            data, _ = marshal.loads(value)
            user_id = data["user_id"].encode()
            if data.get("split") is None:
                times.add(data["time"])
            writer.add(
                partition_of(user_id, self._partitions),
                timeline_key(user_id, data["time"], REQUEST, request_id),
                value,
            )
        yield from messages(TIMELINE, writer.close())
        yield from times.close()
        yield from dead.close()
