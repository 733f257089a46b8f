"""Records that cannot be used: kept with the reason, counted, never silently dropped."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from psad_tf.beam.messages import Handler, Message, Step, messages, of_topic, partition_of, report
from psad_tf.beam.sorted_runs import RunWriter, merge_runs
from psad_tf.data.records import RecordError

DEAD = "dead"
SHARD_NAME = "dead_letters/part-{:05d}-of-{:05d}.jsonl"


class DeadLetters:
    """Collects a step's dead letters and its counts.

    Args:
        folder: Where sorted runs are written.
        partitions: Number of dead-letter files.
    """

    def __init__(self, folder: str, partitions: int) -> None:
        self._partitions = partitions
        self._writer = RunWriter(folder, "dead", buffer_bytes=8 << 20)
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, error: RecordError, source: str, record: Any) -> None:
        """Adds a dead letter.

        Args:
            kind: `impressions`, `rows`, `interactions`, `users` or `items`.
            error: The reason and the detail.
            source: File and place in it.
            record: The raw record: JSON data, or text where it is not JSON.
        """
        letter = {
            "reason": error.reason, "detail": error.detail, "kind": kind, "source": source, "record": record,
        }  # fmt: skip
        text = json.dumps(letter, ensure_ascii=False, default=repr)
        if "NaN" in text or "Infinity" in text:
            with contextlib.suppress(RecursionError):
                letter["record"] = _strict(record)
                text = json.dumps(letter, ensure_ascii=False, default=repr)
        line = text.encode("utf-8", "backslashreplace")
        key = f"{kind}\0{error.reason}\0{source}".encode("utf-8", "backslashreplace")
        self._writer.add(partition_of(key, self._partitions), key, line)
        self.counts[f"{kind}/dropped/{error.reason}"] += 1

    def close(self) -> Iterator[Message]:
        """The messages of the step: dead letters and counts."""
        yield from messages(DEAD, self._writer.close())
        if self.counts:
            yield report("counts", dict(self.counts))


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return value


class WriteDeadLetters(Step):
    """Runs of dead letters -> JSON-lines files, sorted by kind, reason and source.

    Args:
        folder: The output folder.
        partitions: Number of files.
    """

    def __init__(self, folder: str, partitions: int) -> None:
        super().__init__(_WriteDeadLetters(folder, partitions))


class _WriteDeadLetters(Handler):
    topics = (DEAD,)

    def __init__(self, folder: str, partitions: int) -> None:
        self._folder = folder
        self._partitions = partitions

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        from psad_tf.beam.writers import OutputFile

        runs = of_topic(received, DEAD)
        name = SHARD_NAME.format(partition, self._partitions)
        with OutputFile(self._folder, name) as file:
            for _, line in merge_runs(runs):
                file.write(line + b"\n")
        yield report("file", file.info())
