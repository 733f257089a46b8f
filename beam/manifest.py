"""The end of the job: statistics, schema and manifest are written, and the files get their names."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apache_beam.io.filesystems import FileSystems
from google.protobuf import text_format

from psad_tf.beam.dead_letters import COPIES
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import PARTS, OutputFile, write_file
from psad_tf.beam.schema import record_schema
from psad_tf.beam.transforms.lists import LABEL, SHARD_NAME
from psad_tf.beam.transforms.split import NEVER
from psad_tf.beam.transforms.vocabularies import VOCABULARY_NAME
from psad_tf.data.records import IMPRESSIONS, KINDS
from psad_tf.errors import InputError
from psad_tf.features import AGE_SECONDS, HISTORY_PREFIX, SPLITS, FeatureDeclaration

FORMAT = "psad-lists"
VERSION = 1
MANIFEST = "manifest.json"
SCHEMA = "schema.pbtxt"
STATISTICS = "statistics.json"


class Reports:
    """What the job reported.

    Args:
        counts: The counts of all steps, added up.
        summary: Lists of what the steps gave: `files`, `mistakes`, `split_points` and `statistics`.

    Attributes:
        kinds: For each kind of record its counts: `read`, `dropped` by reason, and `written` or `kept`.
    """

    def __init__(self, counts: Counter[str], summary: Mapping[str, list[Any]]) -> None:
        self.counts = counts
        self.files: list[dict[str, Any]] = summary["files"]
        self.mistakes: list[str] = summary["mistakes"]
        self.statistics: dict[str, Any] = summary["statistics"][0]
        points = summary["split_points"][0] if summary["split_points"] else (NEVER, NEVER)
        self.split_points = [None if point == NEVER else point for point in points]
        self.written = sum(counts[f"lists/{split}"] for split in SPLITS)
        self.kinds: dict[str, dict[str, Any]] = {}
        for kind in (*KINDS, "rows"):
            start = f"{kind}/dropped/"
            dropped = {
                key.removeprefix(start): counts[key] for key in sorted(counts) if key.startswith(start)
            }
            used = {"written": self.written} if kind == IMPRESSIONS else {"kept": counts[f"{kind}/kept"]}
            self.kinds[kind] = {"read": counts[f"{kind}/read"], "dropped": dropped, **used}

    def check(self, declaration: FeatureDeclaration, max_dropped: float = 1.0) -> None:
        """Refuses a result that nothing should be trained on.

        Raises:
            InputError: A file is damaged, more than the share `max_dropped` of a kind of records is lost,
                there is no list, no training list, or a declared feature or label that occurs in no record.
        """
        if self.mistakes:
            others = len(self.mistakes) - 1
            raise InputError(min(self.mistakes) + (f" (and {others} more such files)" if others else ""))
        for kind, each in self.kinds.items():
            lost = sum(count for reason, count in each["dropped"].items() if reason not in COPIES)
            read = each["read"]
            if lost > max_dropped * read and (self.written or kind not in (IMPRESSIONS, "rows")):
                raise InputError(
                    f"{lost:,} of {read:,} {kind} cannot be used, {lost / read:.1%}, more than --max_dropped "
                    f"{max_dropped:g} allows"
                )
        if not self.written:
            dropped = self.kinds[IMPRESSIONS]["dropped"] or self.kinds["rows"]["dropped"]
            why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "the files are empty"
            raise InputError(f"no impression can be used ({why})")
        any_history = self.written > self.counts["joins/lists_without_history"]
        for name in declaration.names:
            expected = any_history if name.startswith(HISTORY_PREFIX) else True
            if expected and name != HISTORY_PREFIX + AGE_SECONDS and not self.counts[f"coverage/{name}"]:
                raise InputError(
                    f"feature {name!r} is declared but occurs in no record: "
                    "correct its name in the declaration or add it to the logs"
                )
        if not self.counts[f"coverage/{LABEL}"]:
            names = ", ".join(sorted({repr(rule.feedback) for rule in declaration.label.grades}))
            raise InputError(
                f"label: no candidate has feedback {names}: correct the declaration's label rules"
            )
        if not self.counts["lists/train"]:
            raise InputError(f"no list is in the train split ({self.written} in the others)")

    def unaccounted(self) -> list[str]:
        """Kinds of records whose counts do not add up; empty unless the job or its engine has a defect."""
        wrong = []
        for kind, each in self.kinds.items():
            used, dropped = each.get("written", each.get("kept")), sum(each["dropped"].values())
            if each["read"] != used + dropped:
                wrong.append(f"{kind}: {each['read']} read, {used} used, {dropped} dropped")
        return wrong

    def facts(self, declaration: FeatureDeclaration) -> dict[str, Any]:
        """The manifest's counts, which add up: read = written + dropped, for every kind of record."""

        def of(group: str, *names: str) -> dict[str, int]:
            return {name: self.counts[f"{group}/{name}"] for name in names}

        past = [f"{kind}{where}" for kind in ("positives", "negatives") for where in ("", "_in_history")]
        others = {kind: each for kind, each in self.kinds.items() if kind != IMPRESSIONS}
        if not others["rows"]["read"]:
            del others["rows"]
        return {
            "lists": of("lists", *SPLITS),
            "candidates": of("candidates", *SPLITS),
            "positives": of("positives", *SPLITS),
            "counts": {**self.kinds[IMPRESSIONS], **of(IMPRESSIONS, "truncated"), **others},
            "in_history": of("history", *past),
            "joins": of("joins", "lists_without_history", "lists_without_user", "candidates_without_item"),
            "coverage": of("coverage", *declaration.names, LABEL),
            "split_points": dict(zip(("valid_from", "test_from"), self.split_points, strict=True)),
        }


def finish(
    folder: str,
    reports: Reports,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
    inputs: dict[str, list[str]],
) -> dict[str, Any]:
    """Gives the written files their names, writes statistics and schema, and last the manifest, its result.

    Args:
        inputs: Names of the files read, by kind.
    """
    files = {}
    for info in (*reports.files, *_empty_files(folder, reports, declaration, options)):
        target = FileSystems.join(folder, *info["name"].split("/"))
        with contextlib.suppress(Exception):  # there, or made by itself
            FileSystems.mkdirs(FileSystems.split(target)[0])
        FileSystems.rename([FileSystems.join(folder, PARTS, info["part"])], [target])
        files[info["name"]] = {key: info[key] for key in ("sha256", "bytes", "records")}
    statistics = {key: reports.statistics[key] for key in declaration.dense_keys}
    schema = record_schema(declaration)
    for name, text, records in (
        (STATISTICS, _json(statistics), len(statistics)),
        (SCHEMA, text_format.MessageToString(schema).encode(), len(schema.feature)),
    ):
        write_file(FileSystems.join(folder, name), text)
        files[name] = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text), "records": records}
    manifest = _json(
        {
            "format": FORMAT,
            "version": VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **reports.facts(declaration),
            "inputs": inputs,
            "files": dict(sorted(files.items())),
            "options": dataclasses.asdict(options),
            "declaration": declaration.to_dict(),
        }
    )
    write_file(FileSystems.join(folder, MANIFEST), manifest)
    return json.loads(manifest)


def _empty_files(
    folder: str, reports: Reports, declaration: FeatureDeclaration, options: PreprocessOptions
) -> list[dict[str, Any]]:
    """A shard without lists and a vocabulary without values are files too."""
    count, level = options.num_shards, options.compression_level
    wanted = {SHARD_NAME.format(split, shard, count): level for split in SPLITS for shard in range(count)}
    wanted |= {VOCABULARY_NAME.format(vocabulary): 0 for vocabulary in declaration.vocabularies}
    there = {info["name"] for info in reports.files}
    made = []
    for name in wanted.keys() - there:
        with OutputFile(folder, name, wanted[name]) as file:
            made.append(file)
    return [file.info() for file in made]


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
