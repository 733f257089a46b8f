"""Records that cannot be used: kept with the reason, counted, never silently dropped; and how steps count."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from psad_tf.beam.output_file import PARTS, OutputFile, create, open_file
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.records import KINDS, RecordError

DEAD = "dead"
COUNTS = "psad"  # the namespace of the job's counters among Beam's metrics
# Reasons of later copies of a record that was kept: nothing is lost by them.
COPIES = frozenset(("duplicate_request", "duplicate_user_row", "duplicate_item_row"))
SHARD_NAME = "dead_letters/part-{:05d}-of-{:05d}.jsonl"


class CountingDoFn(beam.DoFn):
    """A DoFn that counts, and gives dead letters as its output `dead`.

    Counts become Beam metrics when a bundle ends: one call a name, not one a record.

    Attributes:
        counts: Counts of this bundle by name.
    """

    counts: Counter[str]

    def start_bundle(self) -> None:
        self.counts = Counter()

    def finish_bundle(self) -> Iterable[Any] | None:
        for name, count in self.counts.items():
            Metrics.counter(COUNTS, name).inc(count)
        return None

    def dead(self, kind: str, error: RecordError, source: str, record: Any) -> TaggedOutput:
        """A dead letter.

        Args:
            kind: `impressions`, `rows`, `interactions`, `users` or `items`.
            error: The reason and the detail.
            source: File and place in it.
            record: The raw record: JSON data, or text where it is not JSON.
        """
        self.counts[f"{kind}/dropped/{error.reason}"] += 1
        return TaggedOutput(DEAD, dead_letter(kind, error, source, record))


def dead_letter(kind: str, error: RecordError, source: str, record: Any) -> bytes:
    """What a dead letter is sorted by, and after a NUL its JSON line."""
    letter = {
        "reason": error.reason, "detail": error.detail, "kind": kind, "source": source, "record": record,
    }  # fmt: skip
    text = json.dumps(letter, ensure_ascii=False, default=repr)
    if "NaN" in text or "Infinity" in text:
        with contextlib.suppress(RecursionError):
            letter["record"] = _strict(record)
            text = json.dumps(letter, ensure_ascii=False, default=repr)
    return f"{kind}\1{error.reason}\1{source}\0{text}".encode("utf-8", "backslashreplace")


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return value


class WriteDeadLetters(beam.PTransform):
    """Dead letters -> what the manifest says of their files, which stand by kind, reason and source.

    Args:
        folder: The output folder.
        num_shards: Number of files at most; a file without letters is not written.
    """

    def __init__(self, folder: str, num_shards: int) -> None:
        super().__init__()
        self._folder = folder
        self._num_shards = num_shards

    def expand(self, letters: beam.PCollection) -> beam.PCollection:
        shards = self._num_shards
        return (
            letters
            | "Shard" >> beam.Map(lambda letter: (zlib.crc32(letter.partition(b"\0")[0]) % shards, letter))
            | "By shard" >> beam.GroupByKey()
            | "Sort" >> SortValues()
            | "Write" >> beam.MapTuple(self._write)
        )

    def _write(self, shard: int, letters: Iterator[bytes]) -> dict[str, Any]:
        with OutputFile(self._folder, SHARD_NAME.format(shard, self._num_shards)) as file:
            for letter in letters:
                file.write(letter.partition(b"\0")[2] + b"\n")
        return file.info()


def keep_dead_letters(folder: str, reports: Any, output_dir: str) -> str:
    """Keeps the dead letters of a job that fails, in `<output_dir>.dead_letters/`.

    Args:
        folder: The folder that the job worked in.
        reports: What it reported; its `files` name the dead letters' parts.
        output_dir: The output folder that is not made.

    Returns:
        What an error message adds: the commonest reason with an example, and where all of them are; "" where
        there are none.
    """
    parts = sorted(info["part"] for info in reports.files if info["name"].startswith("dead_letters/"))
    reasons = {
        (kind, reason): count for kind in (*KINDS, "rows") for reason, count in reports.dropped(kind).items()
    }
    if not parts or not reasons:
        return ""
    kind, reason = max(reasons, key=lambda each: (reasons[each], each))
    example, kept = "", f"{output_dir.rstrip('/')}.dead_letters"
    with contextlib.suppress(Exception):  # there from a job before
        FileSystems.delete([kept])
    with contextlib.suppress(Exception):
        FileSystems.mkdirs(kept)
    for number, part in enumerate(parts):
        with contextlib.closing(open_file(FileSystems.join(folder, PARTS, part))) as source:
            text = source.read()
        with contextlib.closing(create(FileSystems.join(kept, f"part-{number:05d}.jsonl"))) as target:
            target.write(text)
        for line in () if example else text.splitlines():
            letter = json.loads(line)
            if (letter["kind"], letter["reason"]) == (kind, reason):
                example = f"{letter['detail']} ({letter['source']})"
                break
    return (
        f"; most often {reason} ({reasons[kind, reason]:,} {kind}): {example}; all dead letters are in {kept}"
    )
