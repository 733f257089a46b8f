"""Records of columns (CSV, Parquet, Avro, flat JSON) in the shape of the raw record.

A column called `feedback.click`, `features.price` or `context.device` is the key `click`, `price` or `device`
of that part. CSV holds text only: numbers are read where the raw record or the feature declaration wants
them, an empty cell is an absent value, and the values of a categorical feature of width over 1 are
separated by `|`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from psad_tf.data.records import IMPRESSIONS, INTERACTIONS, ITEMS, USERS, RecordError
from psad_tf.features import FeatureDeclaration

PARTS = ("feedback", "features", "context")
SEPARATOR = "|"


class Columns:
    """Brings one kind of record into the shape of the raw record.

    Args:
        kind: `impressions`, `interactions`, `users` or `items`.
        declaration: Says which features are dense and which have several values.
        text: True where every value is text, as in CSV.
    """

    def __init__(self, kind: str, declaration: FeatureDeclaration, text: bool) -> None:
        self._text = text
        self._has_parts = kind in (IMPRESSIONS, INTERACTIONS)
        self._plain: dict[str, Callable[[Any], Any]] = {"time": _plain_time}
        readers: dict[str, dict[str, Callable[[str], Any]]] = {
            part: {name: _several if width else _number for name, width in widths.items() if width != 1}
            for part, widths in declaration.raw_widths.items()
        }
        if kind in (USERS, ITEMS):
            self._readers = readers["context" if kind == USERS else "features"]
        else:
            self._readers = {
                f"{part}.{name}": read for part in readers for name, read in readers[part].items()
            }
            self._readers["time"] = _seconds
        if kind == IMPRESSIONS:
            self._plain["position"] = _plain_position
            self._readers |= {"initial_score": _number, "position": _whole}

    def __call__(self, data: Any) -> Any:
        """The record in the raw record's shape.

        Raises:
            RecordError: A cell is not the number it has to be.
        """
        if not isinstance(data, Mapping):
            return data
        shaped: dict[str, Any] = {}
        for column, value in data.items():
            part, _, name = column.partition(".")
            nested = self._has_parts and bool(name) and part in PARTS
            if self._text:
                feedback = nested and part == "feedback"
                value = _cell(value, _feedback if feedback else self._readers.get(column), column)
            else:
                value = self._plain.get(column, plain)(value)
            if not nested:
                shaped[column] = value
            elif value is not None:
                whole = shaped.setdefault(part, {})
                if not isinstance(whole, dict):
                    raise RecordError("wrong_type", f"{part}: stands beside the column {column}")
                whole[name] = value
        return shaped


def plain(value: Any) -> Any:
    """A Parquet or Avro value as JSON data: bytes become text, a map's pairs an object.

    Raises:
        RecordError: Bytes are not UTF-8.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise RecordError("not_utf8", f"{value[:40]!r} is not UTF-8") from None
    if isinstance(value, list):
        if not (value and all(isinstance(each, tuple) and len(each) == 2 for each in value)):
            return [plain(each) for each in value]
        value = dict(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    return value


def _plain_time(value: Any) -> Any:
    """A Parquet or Avro timestamp as whole seconds; without a zone it is UTC."""
    if not isinstance(value, datetime.datetime):
        return plain(value)
    return int((value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp() // 1)


def _plain_position(value: Any) -> Any:
    """A column with empty cells is often one of floats, NaN where empty."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _cell(value: str, read: Callable[[str], Any] | None, column: str) -> Any:
    if value == "" or read is None:
        return value or None
    try:
        return read(value)
    except ValueError:
        if column == "time":  # of another form, perhaps
            return value
        wanted = "a whole number" if read is _whole else "a number"
        raise RecordError("wrong_type", f"{column}: expected {wanted}, got {value[:40]!r}") from None


def _number(value: str, convert: Callable[[str], Any] = float) -> Any:
    if "_" in value:  # Python takes 1_000 for a number; nothing else that reads CSV does
        raise ValueError
    return convert(value)


def _whole(value: str) -> int:
    return _number(value, int)


def _seconds(value: str) -> int:
    """A column of times with empty cells is often one of floats, `1700000000.0`."""
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _feedback(value: str) -> float:
    return float(value.lower() == "true") if value.lower() in ("true", "false") else _number(value)


def _several(value: str) -> list[str]:
    return value.split(SEPARATOR)
