"""Inputs: JSON lines, CSV, Parquet and Avro files on any Beam file system, as work units of bounded size.

A `FileRange` is what one worker reads at a time: 32 MiB of a plain JSON-lines file, or a whole file where the
format cannot be entered in the middle (gzip, CSV, Parquet and Avro are read from the start, a block at a
time).
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import fastavro
import orjson
import pyarrow
import pyarrow.parquet
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from psad_tf.data.records import FEATURES_FILE, IMPRESSIONS, INTERACTIONS, KINDS, RecordError
from psad_tf.errors import InputError

RANGE_BYTES = 32 << 20
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
FORMATS |= {f".{name}": name for name in ("csv", "parquet", "avro")}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2"}
SURROGATE = re.compile("[\ud800-\udfff]")  # no UTF-8 has one; `surrogateescape` makes them


@dataclasses.dataclass(frozen=True)
class RawInputs:
    """Where the raw records are: for each kind, files or glob patterns. Names' ends tell the format.

    Args:
        impressions: At least one pattern.
        interactions: Past interactions, for the histories.
        users: User attributes.
        items: Item attributes.
    """

    impressions: tuple[str, ...]
    interactions: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    items: tuple[str, ...] = ()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> RawInputs:
        """The inputs in a raw data folder: files called after their kind, as `impressions.jsonl`,
        `items.csv.gz` or `impressions-00017.parquet`.

        Raises:
            InputError: There is no such folder, or no impressions or no interactions in it.
        """
        name = os.fspath(folder)
        if "://" not in name and not os.path.isdir(name):
            raise InputError(f"{name}: no such folder")
        found = {}
        for kind in KINDS:
            called = re.compile(rf"(.*/)?{kind}([-_.][^/]*)?/?")  # not kinds_of_things.csv
            matches = [path for path, _ in _match(FileSystems.join(name, kind + "*"))]
            found[kind] = tuple(filter(called.fullmatch, matches))
            for path in found[kind]:
                _format_of(path, "; rename it if it is not to be read")
            if not found[kind] and kind in (IMPRESSIONS, INTERACTIONS):
                missing = FileSystems.join(name, f"{kind}.jsonl")
                raise InputError(f"{missing}: no such file (nor .csv, .parquet, .avro)")
        return cls(**found)


def unread_files(folder: str | os.PathLike[str], inputs: RawInputs) -> list[str]:
    """Names of the files of a local folder that are not read: neither records nor the declaration."""
    read = {os.path.abspath(path) for kind in KINDS for path in getattr(inputs, kind)}
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_file()
        and entry.name != FEATURES_FILE
        and not entry.name.startswith(".")
        and os.path.abspath(entry.path) not in read
    )


class FileRange(NamedTuple):
    """What one worker reads at a time: the lines that start in [start, stop) of a file, or all of it.

    `name` is the path from the folder that all inputs have in common, which is what dead letters say: it is
    the same wherever the logs lie.
    """

    kind: str
    path: str
    name: str
    format: str
    compression: str
    start: int
    stop: int


class RawRecord(NamedTuple):
    """A record as read.

    Attributes:
        place: Byte offset of its line, or its number, from 0.
        data: The decoded record; the text of the line where `error` says that it cannot be decoded.
        error: Why it cannot be decoded, else None.
        plain: True where the text surely holds no line break and no half of a surrogate pair.
    """

    place: int
    data: Any
    error: RecordError | None = None
    plain: bool = False


def find_ranges(inputs: RawInputs) -> list[FileRange]:
    """Finds the input files and cuts them into work units.

    Raises:
        InputError: A pattern matches no file, or a file's format is not known by its name.
    """
    files: dict[tuple[str, str], int] = {}
    for kind in KINDS:
        for pattern in getattr(inputs, kind):
            matches = _match(pattern)
            if not matches:
                raise InputError(f"{pattern}: no such file ({kind})")
            files |= {(kind, path): size for path, size in matches}
    folders = [path.split("/")[:-1] for _, path in files]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    common = len(list(shared))
    ranges = []
    for (kind, path), size in files.items():
        file_format, compression = _format_of(path)
        name = "/".join(path.split("/")[common:])
        step = RANGE_BYTES if (file_format, compression) == ("jsonl", "") else max(size, 1)
        for start in range(0, size, step) or (0,):
            stop = min(size, start + step)
            ranges.append(FileRange(kind, path, name, file_format, compression, start, stop))
    return ranges


def read_range(file_range: FileRange) -> Iterator[RawRecord]:
    """The records of a work unit, in the file's order.

    Raises:
        InputError: The file is cut short or is not of its format at all.
    """
    read, mistake = _READERS[file_range.format]
    try:
        with contextlib.closing(_open(file_range)) as file:
            yield from read(file, file_range)
    except InputError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # not what is in the file
            raise
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{file_range.path}: {mistake} ({said})") from error


def _match(pattern: str) -> list[tuple[str, int]]:
    try:
        (result,) = FileSystems.match([pattern])
    except (BeamIOError, ValueError) as error:
        raise InputError(f"{pattern}: cannot be read ({error})") from None
    return sorted((metadata.path, metadata.size_in_bytes) for metadata in result.metadata_list)


def _format_of(path: str, advice: str = "") -> tuple[str, str]:
    stem, end = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(end, "")
    if compression:
        end = os.path.splitext(stem)[1]
    file_format = FORMATS.get(end)
    if file_format is None or (compression and file_format not in ("jsonl", "csv")):
        known = f"{', '.join(FORMATS)}; .gz, .bz2"
        raise InputError(f"{path}: the format is not known by the name's end (known: {known}){advice}")
    return file_format, compression


def _open(file_range: FileRange) -> BinaryIO:
    file = FileSystems.open(file_range.path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)
    # Python's own readers say when a compressed file is cut short; Beam's give what there is.
    if file_range.compression == "gzip":
        if not file_range.stop:  # to Python a file cut to nothing is a whole file of no members
            raise EOFError("it has 0 bytes, which not even an empty gzip file has")
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if file_range.compression == "bzip2":
        return bz2.BZ2File(file)  # type: ignore[return-value]
    return file


def _read_json_lines(file: BinaryIO, file_range: FileRange) -> Iterator[RawRecord]:
    place = file_range.start
    if place:
        # The line that crosses the start belongs to the range before.
        file.seek(place - 1)
        place += len(file.readline()) - 1
    # A compressed file is one range; its size says nothing of the text's.
    while file_range.compression or place < file_range.stop:
        line = file.readline()
        if not line:
            return
        text = line if place else line.removeprefix(codecs.BOM_UTF8)
        if text and not text.isspace():
            yield _decoded(place, text)
        place += len(line)


def _decoded(place: int, line: bytes) -> RawRecord:
    try:
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError:  # NaN, which Python's own reader takes; or its reason is wanted
            data = json.loads(line.decode("utf-8"))
        return RawRecord(place, data, None, b"\\" not in line)
    except UnicodeDecodeError as error:
        reason, detail = "not_utf8", f"byte {error.start} of the line is not UTF-8"
    except json.JSONDecodeError as error:
        reason, detail = "not_json", f"{error.msg} at character {error.pos}"
    except (RecursionError, ValueError) as error:
        reason, detail = "not_json", str(error)[:200]
    text = line.decode("utf-8", "backslashreplace").rstrip("\n")
    return RawRecord(place, text, RecordError(reason, detail))


def _read_csv(file: BinaryIO, file_range: FileRange) -> Iterator[RawRecord]:
    # -sig: the mark that some programs write first belongs to no column, quoted or not.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(1 << 24)
    reader = csv.reader(text, strict=True)  # or an open quote would swallow the rest of the file
    line = 1
    try:
        header = next(reader, [])
        _check_names(header, file_range.path)
        line = reader.line_num + 1
        for place, row in enumerate(reader):
            line = reader.line_num + 1
            error = None
            if len(row) != len(header):
                detail = f"{len(row)} columns, the first line has {len(header)}"
                error = RecordError("wrong_columns", detail)
            elif any(not cell.isascii() and SURROGATE.search(cell) for cell in row):
                error = RecordError("not_utf8", "a cell is not UTF-8")
            if error is not None and row:
                cells = [cell.encode("utf-8", "surrogateescape") for cell in row]
                yield RawRecord(place, [cell.decode("utf-8", "backslashreplace") for cell in cells], error)
            elif row:
                yield RawRecord(place, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise InputError(
            f"{file_range.path}:{line}: not CSV in the row that starts there ({error})"
        ) from None


def _read_parquet(file: BinaryIO, file_range: FileRange) -> Iterator[RawRecord]:
    parquet = pyarrow.parquet.ParquetFile(file)
    _check_names(parquet.schema_arrow.names, file_range.path)
    rows = (row for batch in parquet.iter_batches(batch_size=1000) for row in batch.to_pylist())
    return itertools.starmap(RawRecord, enumerate(rows))


def _read_avro(file: BinaryIO, file_range: FileRange) -> Iterator[RawRecord]:
    return itertools.starmap(RawRecord, enumerate(fastavro.reader(file)))


def _check_names(names: Sequence[str], path: str) -> None:
    """Refuses two columns of one name: one of them would hide the other."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{path}: {count} columns are called {name!r}")


_CUT = "the file is cut short or damaged"
_READERS: dict[str, tuple[Callable[[BinaryIO, FileRange], Iterator[RawRecord]], str]] = {
    "jsonl": (_read_json_lines, _CUT),
    "csv": (_read_csv, _CUT),
    "parquet": (_read_parquet, "cannot be read as Parquet"),
    "avro": (_read_avro, "cannot be read as Avro"),
}
# bzip2's module and Parquet's tell of damage by an OSError without a number.
_DAMAGE = (
    EOFError, ValueError, LookupError, OSError, zlib.error, pyarrow.ArrowException,
    fastavro.schema.SchemaParseException,
)  # fmt: skip
