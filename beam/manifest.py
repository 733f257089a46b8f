"""The end of the job: statistics, schema and manifest are written, and the files get their names."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from apache_beam.io.filesystems import FileSystems
from google.protobuf import text_format

from psad_tf.beam.dead_letters import COPIES
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import PARTS, OutputFile, create, open_file
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
        summary: (kind, payload) pairs: `files`, `mistakes`, `split_points` and `statistics`.
    """

    def __init__(self, counts: Counter[str], summary: Iterable[tuple[str, Any]]) -> None:
        self.counts = counts
        self.statistics: dict[str, dict[str, Any]] = {}
        self.files: list[dict[str, Any]] = []
        self.split_points: list[int | None] = [None, None]
        self.mistakes: list[str] = []
        for kind, payload in summary:
            if kind == "files":
                self.files.append(payload)
            elif kind == "mistakes":
                self.mistakes.append(payload)
            elif kind == "split_points":
                self.split_points = [None if point == NEVER else point for point in payload]
            else:
                self.statistics = payload

    def dropped(self, kind: str) -> dict[str, int]:
        """Dead letters of a kind by reason."""
        start = f"{kind}/dropped/"
        return {
            key.removeprefix(start): count
            for key, count in sorted(self.counts.items())
            if key.startswith(start)
        }

    def lost(self, kind: str) -> int:
        """Dead letters of a kind, but for later copies of a record that was kept."""
        return sum(count for reason, count in self.dropped(kind).items() if reason not in COPIES)

    def check(self, declaration: FeatureDeclaration, max_dropped: float = 1.0) -> None:
        """Refuses a result that nothing should be trained on.

        Args:
            declaration: The features.
            max_dropped: Largest share of the records of a kind that may be lost.

        Raises:
            InputError: A file is damaged, too many records of a kind are lost, there is no list, no training
                list, or a declared feature or label that occurs in no record.
        """
        if self.mistakes:
            others = len(self.mistakes) - 1
            raise InputError(min(self.mistakes) + (f" (and {others} more such files)" if others else ""))
        counts = self.counts
        for kind in (*KINDS, "rows"):
            lost, read = self.lost(kind), counts[f"{kind}/read"]
            if lost > max_dropped * read and (self._written() or kind not in (IMPRESSIONS, "rows")):
                raise InputError(
                    f"{lost:,} of {read:,} {kind} cannot be used, {lost / read:.1%}, more than --max_dropped "
                    f"{max_dropped:g} allows"
                )
        written = self._written()
        if not written:
            dropped = self.dropped(IMPRESSIONS) or self.dropped("rows")
            why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "the files are empty"
            raise InputError(f"no impression can be used ({why})")
        for feature in self._declared(declaration):
            if not counts[f"coverage/{feature}"]:
                raise InputError(
                    f"feature {feature!r} is declared but occurs in no record: "
                    "correct its name in the declaration or add it to the logs"
                )
        if not counts[f"coverage/{LABEL}"]:
            names = ", ".join(sorted({repr(rule.feedback) for rule in declaration.label.grades}))
            raise InputError(
                f"label: no candidate has feedback {names}: correct the declaration's label rules"
            )
        if not counts["lists/train"]:
            raise InputError(f"no list is in the train split ({written} in the others)")

    def _written(self) -> int:
        return sum(self.counts[f"lists/{split}"] for split in SPLITS)

    def _declared(self, declaration: FeatureDeclaration) -> Iterable[str]:
        any_history = self._written() > self.counts["joins/lists_without_history"]
        for name in _names(declaration):
            if name != HISTORY_PREFIX + AGE_SECONDS and (any_history or not name.startswith(HISTORY_PREFIX)):
                yield name

    def manifest(
        self,
        declaration: FeatureDeclaration,
        options: dict[str, Any],
        files: dict[str, dict[str, Any]],
        inputs: dict[str, list[str]],
    ) -> dict[str, Any]:
        """The manifest; its counts add up: read = written + dropped, for every kind of record."""
        counts = self.counts
        by_kind = {}
        for kind in (*KINDS, "rows"):
            entry: dict[str, Any] = {"read": counts[f"{kind}/read"], "dropped": self.dropped(kind)}
            if kind == IMPRESSIONS:
                entry["written"] = self._written()
                entry["truncated"] = counts["impressions/truncated"]
            else:
                entry["kept"] = counts[f"{kind}/kept"]
            by_kind[kind] = entry
        if not by_kind["rows"]["read"]:
            del by_kind["rows"]
        impressions = by_kind.pop(IMPRESSIONS)
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "lists": {split: counts[f"lists/{split}"] for split in SPLITS},
            "candidates": {split: counts[f"candidates/{split}"] for split in SPLITS},
            "positives": {split: counts[f"positives/{split}"] for split in SPLITS},
            "counts": {**impressions, **by_kind},
            "in_history": {
                name: counts[f"history/{name}"]
                for name in ("positives", "positives_in_history", "negatives", "negatives_in_history")
            },
            "joins": {
                name: counts[f"joins/{name}"]
                for name in ("lists_without_history", "lists_without_user", "candidates_without_item")
            },
            "coverage": {
                name: counts[f"coverage/{name}"] for name in dict.fromkeys((*_names(declaration), LABEL))
            },
            "split_points": dict(zip(("valid_from", "test_from"), self.split_points, strict=True)),
            "inputs": inputs,
            "files": files,
            "options": options,
            "declaration": declaration.to_dict(),
        }

    def unaccounted(self) -> list[str]:
        """Kinds of records whose counts do not add up; empty unless the job has a defect."""
        counts = self.counts
        wrong = []
        for kind in (*KINDS, "rows"):
            used = self._written() if kind == IMPRESSIONS else counts[f"{kind}/kept"]
            dropped = sum(self.dropped(kind).values())
            if counts[f"{kind}/read"] != used + dropped:
                wrong.append(f"{kind}: {counts[f'{kind}/read']} read, {used} used, {dropped} dropped")
        return wrong


def finish(
    folder: str,
    reports: Reports,
    declaration: FeatureDeclaration,
    options: PreprocessOptions,
    inputs: dict[str, list[str]],
) -> dict[str, Any]:
    """Gives the written files their names and writes statistics, schema and, last, the manifest.

    Args:
        folder: The output folder, on any Beam file system.
        reports: What the steps reported.
        declaration: The features.
        options: The job's options.
        inputs: Names of the files read, by kind.

    Returns:
        The manifest.
    """
    files = {}
    _write_empty_files(folder, reports, declaration, options)
    for info in sorted(reports.files, key=lambda info: info["name"]):
        _rename(
            FileSystems.join(folder, PARTS, info["part"]), FileSystems.join(folder, *info["name"].split("/"))
        )
        files[info["name"]] = {key: info[key] for key in ("sha256", "bytes", "records")}
    statistics = reports.statistics
    schema = record_schema(declaration)
    texts = {
        STATISTICS: (_json(statistics), len(statistics)),
        SCHEMA: (text_format.MessageToString(schema), len(schema.feature)),
    }
    for name, (text, records) in texts.items():
        data = text.encode()
        _write(FileSystems.join(folder, name), data)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "records": records}
    facts = reports.manifest(declaration, dataclasses.asdict(options), dict(sorted(files.items())), inputs)
    manifest = _json(facts)
    _write(FileSystems.join(folder, MANIFEST), manifest.encode())
    return json.loads(manifest)


def _write_empty_files(
    folder: str, reports: Reports, declaration: FeatureDeclaration, options: PreprocessOptions
) -> None:
    """A shard without lists and a vocabulary without values are files too."""
    count, level = options.num_shards, options.compression_level
    wanted = {SHARD_NAME.format(split, shard, count): level for split in SPLITS for shard in range(count)}
    wanted |= {VOCABULARY_NAME.format(vocabulary): 0 for vocabulary in declaration.vocabularies}
    there = {info["name"] for info in reports.files}
    for name, gzip_level in wanted.items():
        if name not in there:
            with OutputFile(folder, name, gzip_level) as file:
                pass
            reports.files.append(file.info())


def _names(declaration: FeatureDeclaration) -> Iterable[str]:
    """The name on the wire of every declared feature."""
    yield from (feature.name for feature in declaration.context_categorical)
    yield from (feature.name for feature in declaration.context_dense)
    yield from (feature.name for feature in declaration.candidate_categorical)
    yield from (feature.name for feature in declaration.candidate_dense)
    yield from (HISTORY_PREFIX + feature.name for feature in declaration.history.categorical)
    yield from (HISTORY_PREFIX + feature.name for feature in declaration.history.dense)


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: str, data: bytes) -> None:
    with contextlib.closing(create(path)) as file:
        file.write(data)


def _rename(source: str, target: str) -> None:
    parent = FileSystems.split(target)[0]
    with contextlib.suppress(Exception):
        FileSystems.mkdirs(parent)
    FileSystems.rename([source], [target])


def read_json(path: str) -> Any:
    """Reads JSON from any Beam file system."""
    with contextlib.closing(open_file(path)) as file:
        return json.loads(file.read())
