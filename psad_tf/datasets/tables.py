"""Reading published tables (CSV, TSV) and cutting logs without request ids into sessions."""

from __future__ import annotations

import csv
import gzip
import os
import sys
import zlib
from collections.abc import Iterator, Sequence

from psad_tf.errors import InputError

Row = dict[str, str]


def read_table(
    path: str | os.PathLike[str], needed: Sequence[str], delimiter: str = ",", quoted: bool = True
) -> Iterator[tuple[str, Row]]:
    """The rows of a table with a header line.

    Args:
        path: The file, UTF-8; gzip if its name ends in `.gz`.
        needed: Columns that must be there.
        delimiter: One character.
        quoted: Whether fields may stand in double quotes.

    Yields:
        (`file:line`, column -> text).

    Raises:
        InputError: The file is missing or not UTF-8, a column is missing, or a line has too few or too
            many fields; it names file and line.
    """
    name = os.fspath(path)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    opened = gzip.open if name.endswith(".gz") else open
    try:
        with opened(name, "rt", encoding="utf-8-sig", newline="") as file:
            if quoted:
                reader = csv.reader(file, delimiter=delimiter)
            else:
                reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            header = next(reader, [])
            missing = [column for column in needed if column not in header]
            if missing:
                raise InputError(
                    f"{name}: no column {', '.join(missing)} (it has {', '.join(header) or 'none'})"
                )
            for values in reader:
                if not values:
                    continue
                where = f"{name}:{reader.line_num}"
                if len(values) != len(header):
                    raise InputError(f"{where}: {len(values)} fields, expected {len(header)}")
                yield where, dict(zip(header, values, strict=True))
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be read as a table ({error})") from None


def read_tab_separated(
    path: str | os.PathLike[str], columns: int, header: bool = False, hint: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """The lines of a tab-separated file without quoting, whose columns have no or other names.

    Args:
        path: The file, UTF-8.
        columns: Fields of each line.
        header: Whether the first line is passed over.
        hint: Where the file comes from, said when it is missing.

    Yields:
        (`file:line`, fields).

    Raises:
        InputError: The file is missing or not UTF-8, or a line has too few or too many fields.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if header and number == 1:
                    continue
                fields = line.rstrip("\n").split("\t")
                if len(fields) != columns:
                    raise InputError(
                        f"{name}:{number}: {len(fields)} tab-separated fields, expected {columns}"
                    )
                yield f"{name}:{number}", fields
    except FileNotFoundError:
        raise InputError(f"{name}: no such file{hint and f' ({hint})'}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 ({error})") from None


def number(row: Row, column: str, where: str) -> float:
    """A finite number out of a row.

    Raises:
        InputError: It is not one; names file, line and column.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise InputError(f"{where}: {column}: {row[column]!r} is not a number")
    return value


def identifier(row: Row, column: str, where: str) -> str:
    """An identifier out of a row: not empty."""
    if not row[column]:
        raise InputError(f"{where}: {column}: is empty")
    return row[column]


def cut_sessions(times: Sequence[float], gap: float, max_events: int) -> list[tuple[int, int]]:
    """Cuts events in time order where more than `gap` seconds pass, and after `max_events` events.

    Returns:
        (start, stop) of each session, `stop` exclusive.

    Raises:
        InputError: `gap` is negative or not a number.

    Example:
        >>> cut_sessions([0, 5, 100, 101, 102], gap=60, max_events=2)
        [(0, 2), (2, 4), (4, 5)]
    """
    if not gap >= 0:
        raise InputError(f"gap_seconds: must be 0 or more, got {gap}")
    spans: list[tuple[int, int]] = []
    start = 0
    for index in range(1, len(times) + 1):
        if index == len(times) or times[index] - times[index - 1] > gap or index - start == max_events:
            spans.append((start, index))
            start = index
    return spans
