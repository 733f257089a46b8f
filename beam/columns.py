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
        self._plain: dict[str, Callable[[Any], Any]] = {"time": _plain_time}
        if kind == IMPRESSIONS:
            self._plain["position"] = _plain_position
        dense_context = {feature.name for feature in declaration.context_dense}
        dense_candidate = {feature.name for feature in declaration.candidate_dense}
        many_context = {feature.name for feature in declaration.context_categorical if feature.width > 1}
        many_candidate = {
            feature.name
            for feature in (*declaration.candidate_categorical, *declaration.history.categorical)
            if feature.width > 1
        }
        self._top: dict[str, Callable[[str], Any]] = {"time": _seconds}
        if kind == IMPRESSIONS:
            self._top |= {"initial_score": _number, "position": _whole}
        elif kind == USERS:
            self._top = dict.fromkeys(dense_context, _number) | dict.fromkeys(many_context, _several)
        elif kind == ITEMS:
            self._top = dict.fromkeys(dense_candidate, _number) | dict.fromkeys(many_candidate, _several)
        self._parts: dict[str, dict[str, Callable[[str], Any]]] = {
            "context": dict.fromkeys(dense_context, _number) | dict.fromkeys(many_context, _several),
            "features": dict.fromkeys(dense_candidate, _number) | dict.fromkeys(many_candidate, _several),
        }
        self._has_parts = kind in (IMPRESSIONS, INTERACTIONS)

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
            if name and self._has_parts and part in PARTS:
                if self._text:
                    read = _feedback if part == "feedback" else self._parts[part].get(name)
                    value = _cell(value, read, column)
                if value is not None:
                    whole = shaped.setdefault(part, {})
                    if not isinstance(whole, dict):
                        raise RecordError("wrong_type", f"{part}: stands beside the column {column}")
                    whole[name] = plain(value)
            elif self._text:
                shaped[column] = _cell(value, self._top.get(column), column)
            else:
                shaped[column] = self._plain.get(column, plain)(value)
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
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(each, tuple) and len(each) == 2 for each in value):
            return {plain(key): plain(each) for key, each in value}
        return [plain(each) for each in value]
    return value


def _plain_time(value: Any) -> Any:
    """A Parquet or Avro timestamp as whole seconds; without a zone it is UTC."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.UTC)
        return int(value.timestamp() // 1)
    return value


def _plain_position(value: Any) -> Any:
    """A column with empty cells is often one of floats, NaN where empty."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def _cell(value: str, read: Callable[[str], Any] | None, column: str) -> Any:
    if value == "":
        return None
    if read is None:
        return value
    try:
        return read(value)
    except ValueError:
        if column == "time":  # of another form, perhaps
            return value
        wanted = "a whole number" if read is _whole else "a number"
        raise RecordError("wrong_type", f"{column}: expected {wanted}, got {value[:40]!r}") from None


def _whole(value: str) -> int:
    return int(_without_underscore(value))


def _seconds(value: str) -> int:
    """A column of times with empty cells is often one of floats, `1700000000.0`."""
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _number(value: str) -> float:
    return float(_without_underscore(value))


def _feedback(value: str) -> float:
    return (
        {"true": 1.0, "false": 0.0}[value.lower()] if value.lower() in ("true", "false") else _number(value)
    )


def _without_underscore(value: str) -> str:
    """Python takes 1_000 for a number; nothing else that reads CSV does."""
    if "_" in value:
        raise ValueError
    return value


def _several(value: str) -> list[str]:
    return value.split(SEPARATOR)
