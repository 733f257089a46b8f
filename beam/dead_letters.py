"""Records that cannot be used: kept with the reason, counted, never silently dropped; and how steps count."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import PARTS, OutputFile, read_file, write_file
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.records import RecordError
from psad_tf.features import FeatureDeclaration

DEAD = "dead"
COUNTS = "psad"  # the namespace of the job's counters among Beam's metrics
# Reasons of later copies of a record that was kept: nothing is lost by them.
COPIES = frozenset(("duplicate_request", "duplicate_user_row", "duplicate_item_row"))
SHARD_NAME = "dead_letters/part-{:05d}-of-{:05d}.jsonl"


class CountingDoFn(beam.DoFn):
    """A step of the job that counts, and gives dead letters as its output `dead`.

    `counts`, this bundle's by name, become Beam metrics when it ends: one call a name, not one a record.
    """

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self.declaration = declaration
        self.options = options

    def giving(self, main: str, kind: Any, *sides: Any, **others: Any) -> Any:
        """This step as a transform.

        Args:
            main: Name of its main output.
            kind: Type of that.
            sides: Side inputs.
            others: Types of the other outputs, `dead` apart, by name.
        """
        step = beam.ParDo(self, *sides).with_output_types(kind, **{DEAD: bytes}, **others)
        return step.with_outputs(DEAD, *others, main=main)

    def start_bundle(self) -> None:
        self.counts: Counter[str] = Counter()

    def finish_bundle(self) -> Any:
        for name, count in self.counts.items():
            Metrics.counter(COUNTS, name).inc(count)

    def dead(self, kind: str, reason: str, detail: str, source: str, record: Any) -> TaggedOutput:
        """A dead letter; see `dead_letter`."""
        self.counts[f"{kind}/dropped/{reason}"] += 1
        return TaggedOutput(DEAD, dead_letter(kind, RecordError(reason, detail), source, record))


def dead_letter(kind: str, error: RecordError, source: str, record: Any) -> bytes:
    """What a dead letter is sorted by, and after a NUL its JSON line.

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


@beam.ptransform_fn
def WriteDeadLetters(letters: beam.PCollection, folder: str, num_shards: int) -> beam.PCollection:
    """Dead letters -> what the manifest says of their at most `num_shards` files, each of which is sorted."""
    return (
        letters
        | "Shard" >> beam.Map(lambda letter: (zlib.crc32(letter.partition(b"\0")[0]) % num_shards, letter))
        | "By shard" >> beam.GroupByKey()
        | "Sort" >> SortValues()
        | "Write"
        >> beam.MapTuple(lambda shard, each: _write(each, folder, SHARD_NAME.format(shard, num_shards)))
    )


def _write(letters: Iterable[bytes], folder: str, name: str) -> dict[str, Any]:
    with OutputFile(folder, name) as file:
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
    if not parts:
        return ""
    dropped = {
        (kind, reason): n for kind, each in reports.kinds.items() for reason, n in each["dropped"].items()
    }
    common = max(dropped, key=lambda each: (dropped[each], each))
    example, kept = "", f"{output_dir.rstrip('/')}.dead_letters"
    with contextlib.suppress(Exception):  # there from a job before
        FileSystems.delete([kept])
    with contextlib.suppress(Exception):
        FileSystems.mkdirs(kept)
    for number, part in enumerate(parts):
        text = read_file(FileSystems.join(folder, PARTS, part))
        write_file(FileSystems.join(kept, f"part-{number:05d}.jsonl"), text)
        letters = () if example else map(json.loads, text.splitlines())
        found = (each for each in letters if (each["kind"], each["reason"]) == common)
        example = example or next((f"{each['detail']} ({each['source']})" for each in found), "")
    kind, reason = common
    return f"; most often {reason} ({dropped[common]:,} {kind}): {example}; all dead letters are in {kept}"
