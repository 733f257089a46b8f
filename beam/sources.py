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
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import orjson
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from psad_tf.data.records import FEATURES_FILE, IMPRESSIONS, INTERACTIONS, ITEMS, KINDS, USERS, RecordError
from psad_tf.errors import InputError

RANGE_BYTES = 32 << 20
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".avro": "avro",
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2"}
_UNKNOWN_FORMAT = f"the format is not known by the name's end (known: {', '.join(FORMATS)}; .gz, .bz2)"


@dataclasses.dataclass(frozen=True)
class RawInputs:
    """Where the raw records are: for each kind, files or glob patterns.

    The format is told by the name's end: `.jsonl`, `.csv`, `.parquet` or `.avro`; JSON lines and CSV may
    also end in `.gz` or `.bz2`.

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
        local = "://" not in name
        if local and not os.path.isdir(name):
            raise InputError(f"{name}: no such folder")
        found: dict[str, tuple[str, ...]] = {}
        for kind in KINDS:
            matches = _match(FileSystems.join(name, kind + "*"))
            found[kind] = tuple(sorted(path for path, _ in matches if _called(path, kind)))
            for path in found[kind]:
                if _format_of(path) is None:
                    raise InputError(f"{path}: {_UNKNOWN_FORMAT}; rename it if it is not to be read")
        for kind in (IMPRESSIONS, INTERACTIONS):
            if not found[kind]:
                raise InputError(
                    f"{FileSystems.join(name, kind + '.jsonl')}: no such file (nor .csv, .parquet, .avro)"
                )
        return cls(found[IMPRESSIONS], found[INTERACTIONS], found[USERS], found[ITEMS])


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
    error: RecordError | None
    plain: bool


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
    ranges: list[FileRange] = []
    for (kind, path), size in files.items():
        format_and_compression = _format_of(path)
        if format_and_compression is None:
            raise InputError(f"{path}: {_UNKNOWN_FORMAT}")
        name = "/".join(path.split("/")[common:])
        whole = FileRange(kind, path, name, *format_and_compression, 0, size)
        if whole.format != "jsonl" or whole.compression:
            ranges.append(whole)
            continue
        ranges += [
            whole._replace(start=start, stop=min(size, start + RANGE_BYTES))
            for start in range(0, size, RANGE_BYTES)
        ]
    return ranges


def read_range(file_range: FileRange) -> Iterator[RawRecord]:
    """The records of a work unit, in the file's order.

    Raises:
        InputError: The file is cut short or is not of its format at all.
    """
    try:
        if file_range.format == "jsonl":
            yield from _read_json_lines(file_range)
        elif file_range.format == "csv":
            yield from _read_csv(file_range)
        elif file_range.format == "parquet":
            yield from _read_parquet(file_range)
        else:
            yield from _read_avro(file_range)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file_range.path}: the file is cut short or damaged ({error})") from error
    except OSError as error:
        if file_range.compression != "bzip2" or error.errno is not None:
            raise
        # Damage has no error class of its own in bzip2's module, nor a number.
        raise InputError(f"{file_range.path}: the file is cut short or damaged ({error})") from error


def _match(pattern: str) -> list[tuple[str, int]]:
    try:
        (result,) = FileSystems.match([pattern])
    except (BeamIOError, ValueError) as error:
        raise InputError(f"{pattern}: cannot be read ({error})") from None
    return sorted((metadata.path, metadata.size_in_bytes) for metadata in result.metadata_list)


def _format_of(path: str) -> tuple[str, str] | None:
    stem, end = os.path.splitext(path.lower())
    compression = COMPRESSIONS.get(end, "")
    if compression:
        end = os.path.splitext(stem)[1]
    file_format = FORMATS.get(end)
    if file_format is None or (compression and file_format not in ("jsonl", "csv")):
        return None
    return file_format, compression


def _called(path: str, kind: str) -> bool:
    """True for `kind.jsonl`, `kind-00001.jsonl` and `kind_2026.csv`, not for `kinds_of_things.csv`."""
    rest = path.rstrip("/").rsplit("/", 1)[-1][len(kind) :]
    return rest[:1] in ("", ".", "-", "_")


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


def _read_json_lines(file_range: FileRange) -> Iterator[RawRecord]:
    with contextlib.closing(_open(file_range)) as file:
        place = file_range.start
        if place:
            # The line that crosses the start belongs to the range before.
            file.seek(place - 1)
            place += len(file.readline()) - 1
        # A compressed file is one range; its size says nothing of the text's.
        stop = None if file_range.compression else file_range.stop
        while stop is None or place < stop:
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
    return RawRecord(place, text, RecordError(reason, detail), False)


def _read_csv(file_range: FileRange) -> Iterator[RawRecord]:
    with contextlib.closing(_open(file_range)) as file:
        # -sig: the mark that some programs write first belongs to no column, quoted or not.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        csv.field_size_limit(1 << 24)
        reader = csv.reader(text, strict=True)  # or an open quote would swallow the rest of the file
        line = 1
        try:
            header = next(reader, None)
            if header is None:
                return
            _check_names(header, file_range.path)
            line = reader.line_num + 1
            for place, row in enumerate(reader):
                line = reader.line_num + 1
                if not row:
                    continue
                if len(row) != len(header):
                    detail = f"{len(row)} columns, the first line has {len(header)}"
                    text_row = [_printable(cell) for cell in row]
                    yield RawRecord(place, text_row, RecordError("wrong_columns", detail), False)
                elif any(map(_is_escaped, row)):
                    text_row = [_printable(cell) for cell in row]
                    yield RawRecord(place, text_row, RecordError("not_utf8", "a cell is not UTF-8"), False)
                else:
                    yield RawRecord(place, dict(zip(header, row, strict=True)), None, False)
        except csv.Error as error:
            raise InputError(
                f"{file_range.path}:{line}: not CSV in the row that starts there ({error})"
            ) from None


def _check_names(names: Sequence[str], path: str) -> None:
    """Refuses two columns of one name: one of them would hide the other."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{path}: {count} columns are called {name!r}")


def _is_escaped(cell: str) -> bool:
    return not cell.isascii() and any("\ud800" <= character <= "\udfff" for character in cell)


def _printable(cell: str) -> str:
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_parquet(file_range: FileRange) -> Iterator[RawRecord]:
    import pyarrow
    import pyarrow.parquet

    with contextlib.closing(_open(file_range)) as file:
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            _check_names(parquet.schema_arrow.names, file_range.path)
            place = 0
            for batch in parquet.iter_batches(batch_size=1000):
                for data in batch.to_pylist():
                    yield RawRecord(place, data, None, False)
                    place += 1
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise InputError(
                f"{file_range.path}: cannot be read as Parquet ({_first_line(error)})"
            ) from error


def _read_avro(file_range: FileRange) -> Iterator[RawRecord]:
    import fastavro

    with contextlib.closing(_open(file_range)) as file:
        place = -1
        try:
            for place, data in enumerate(fastavro.reader(file)):
                yield RawRecord(place, data, None, False)
        except (ValueError, EOFError, KeyError, IndexError, fastavro.schema.SchemaParseException) as error:
            after = f" after its first {place + 1} records" if place >= 0 else ""
            raise InputError(
                f"{file_range.path}: cannot be read as Avro{after} ({_first_line(error)})"
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
