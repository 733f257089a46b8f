"""What travels between the steps of the job: small messages, each of a topic and for a partition.

Records themselves lie in sorted runs (`sorted_runs.py`); a message is a run, a path, a count or a few
numbers, so that no runner's shuffle ever holds the data. The steps form a chain: each takes the messages of
its topics, grouped by partition, and passes the others on.

Only what every runner does is used here: ParDo and GroupByKey on whole numbers. Tagged outputs, side inputs
and outputs of `finish_bundle` are lost or repeated by some runners (Dask's among them).
"""

from __future__ import annotations

import abc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam

Message = tuple[str, int, Any]

REPORT = "report"
# Messages that a step passes on travel in so many groups.
_PASSING = 16


class Handler(abc.ABC):
    """What a step does with the messages of one partition. Handlers are pickled to the workers.

    Attributes:
        topics: The topics it takes.
    """

    topics: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        """Handles a partition's (topic, payload) pairs and gives messages.

        A partition without a message is not handled.
        """


class Step(beam.PTransform):
    """Messages -> messages: those of the handler's topics are handled, the others pass."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler

    def expand(self, sent: beam.PCollection) -> beam.PCollection:
        return (
            sent
            | "Address" >> beam.ParDo(_Address(self._handler.topics)).with_output_types(tuple[int, Any])
            | "By partition" >> beam.GroupByKey()
            | "Handle" >> beam.ParDo(_Handle(self._handler))
        )


class _Address(beam.DoFn):
    def __init__(self, topics: tuple[str, ...]) -> None:
        self._topics = frozenset(topics)

    def process(self, message: Message) -> Iterator[tuple[int, Message]]:
        topic, partition, _ = message
        yield (partition if topic in self._topics else -1 - partition % _PASSING), message


class _Handle(beam.DoFn):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def process(self, element: tuple[int, Iterable[Message]]) -> Iterable[Message]:
        partition, received = element
        if partition < 0:
            return received
        return self._handler.handle(partition, [(topic, payload) for topic, _, payload in received])


def of_topic(received: Iterable[tuple[str, Any]], topic: str) -> list[Any]:
    """The payloads of one topic."""
    return [payload for name, payload in received if name == topic]


def messages(topic: str, payloads: Iterable[tuple[int, Any]]) -> Iterator[Message]:
    """(partition, payload) pairs as messages of a topic."""
    for partition, payload in payloads:
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
