"""Reading published tables (CSV, TSV) and cutting logs without request ids into sessions."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence

from psad_tf.errors import InputError

Row = dict[str, str]


def read_table(
    path: str | os.PathLike[str], needed: Sequence[str], delimiter: str = ",", quoted: bool = True
) -> Iterator[tuple[str, Row]]:
    """The rows of a table with a header line.

    Args:
        path: The file, UTF-8.
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
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
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
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{name}: cannot be read as a table ({error})") from None


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
