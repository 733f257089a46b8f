"""What travels between the steps of the job: small messages, each of a topic and for a partition.

Records themselves lie in sorted runs (`sorted_runs.py`); a message is a run, a path, a count or a few
numbers, so that no runner's shuffle ever holds the data. A step takes, for each partition, every message of
its topics, and sends messages of other topics: `("timeline", 3, Run(...))`.

Only what every runner does is used here: ParDo, Flatten, GroupByKey on whole numbers. Tagged and side
outputs, side inputs and outputs of `finish_bundle` are lost or repeated by some runners (Dask's among them).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import apache_beam as beam

Message = tuple[str, int, Any]
Received = tuple[int, Iterable[tuple[str, Any]]]

REPORT = "report"


class Receive(beam.PTransform):
    """PCollections of messages -> (partition, [(topic, payload), ...]), one for every partition.

    Args:
        topics: The topics to take; messages of other topics pass by.
        partitions: How many partitions there are; one without messages is there too, with none.
    """

    def __init__(self, topics: tuple[str, ...], partitions: int) -> None:
        super().__init__()
        self._topics = topics
        self._partitions = partitions

    def expand(self, sent: beam.PCollection | Iterable[beam.PCollection]) -> beam.PCollection:
        sent = (sent,) if isinstance(sent, beam.PCollection) else tuple(sent)
        every_partition = sent[0].pipeline | "Every partition" >> beam.Create(
            [(partition, ("", None)) for partition in range(self._partitions)]
        )
        taken = (
            sent
            | "All messages" >> beam.Flatten()
            | "Of these topics" >> beam.ParDo(_Take(self._topics)).with_output_types(tuple[int, Any])
        )
        return (
            (every_partition, taken)
            | "With every partition" >> beam.Flatten()
            | "By partition" >> beam.GroupByKey()
        )


class _Take(beam.DoFn):
    def __init__(self, topics: tuple[str, ...]) -> None:
        self._topics = frozenset(topics)

    def process(self, message: Message) -> Iterable[tuple[int, tuple[str, Any]]]:
        topic, partition, payload = message
        if topic in self._topics:
            yield partition, (topic, payload)


def of_topic(received: Iterable[tuple[str, Any]], topic: str) -> list[Any]:
    """The payloads of one topic."""
    return [payload for name, payload in received if name == topic]


def messages(topic: str, runs: Iterable[tuple[int, Any]]) -> Iterable[Message]:
    """(partition, payload) pairs as messages of a topic."""
    for partition, payload in runs:
        yield topic, partition, payload


def report(kind: str, payload: Any) -> Message:
    """A message for the last step, which hands it to the program that started the job."""
    return REPORT, 0, (kind, payload)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: the same on every worker and in every run.

    Example:
        >>> partition_of(b"user-1", 8)
        4
    """
    return zlib.crc32(key) % partitions
