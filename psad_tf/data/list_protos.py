"""The values of a list's features -> the bytes of an ExampleListWithContext.

The messages below are those of `tensorflow/core/example/{feature,example}.proto` and
`tensorflow_serving/apis/input.proto`, restated because TensorFlow's own classes come only with all of
TensorFlow: seconds of start and hundreds of megabytes in each worker process. They differ in ways that do not
show on the wire: a map is a list of entries, which keeps the declared order, and some messages are `bytes`,
so that what is the same for many lists is serialized once.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from psad_tf.data.encode_record import ListValues, Strings
from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    REQUEST_TIME,
    SHOWN_POSITION,
    FeatureDeclaration,
)
from psad_tf.protos import Messages, describe, message_classes

_MESSAGES: Messages = {
    "BytesList": [("value", 1, "bytes*")],
    "FloatList": [("value", 1, "float*")],
    "Int64List": [("value", 1, "int64*")],
    "Feature": [
        ("bytes_list", 1, "BytesList"),
        ("float_list", 2, "FloatList"),
        ("int64_list", 3, "Int64List"),
    ],
    "Entry": [("key", 1, "string"), ("value", 2, "Feature")],
    "Features": [("feature", 1, "Entry*")],
    "Example": [("features", 1, "bytes")],  # serialized Features
    "ExampleListWithContext": [("examples", 1, "Example*"), ("context", 2, "Example")],
}


_CLASSES = message_classes(describe("psad", _MESSAGES))
_Features, _List = _CLASSES["Features"], _CLASSES["ExampleListWithContext"]


class ListSerializer:
    """Serializes lists of a declaration; names and shapes are the table in `psad_tf/features.py`."""

    def __init__(self, declaration: FeatureDeclaration) -> None:
        self._context_categorical = [feature.name for feature in declaration.context_categorical]
        self._context_dense = [feature.name for feature in declaration.context_dense]
        history = declaration.history
        self._history_categorical = [HISTORY_PREFIX + feature.name for feature in history.categorical]
        self._history_dense = [HISTORY_PREFIX + feature.name for feature in history.dense]
        self._categorical = [feature.name for feature in declaration.candidate_categorical]
        # A float feature is constant bytes and then its number.
        names = [*(feature.name for feature in declaration.candidate_dense), RELEVANCE, NEGATIVE]
        prefixes = [_features([(name, "float_list", [0.0])])[:-4] for name in names]
        self._pack_floats = struct.Struct("<" + "".join(f"{len(prefix)}sf" for prefix in prefixes)).pack
        self._floats = [each for prefix in prefixes for each in (prefix, 0.0)]
        # No method: see `RecordEncoder`.
        serialize = functools.partial(_serialized_strings, self._categorical)
        self._strings = functools.lru_cache(50_000)(serialize)

    def __call__(self, values: ListValues) -> bytes:
        """The serialized list."""
        message = _List()
        add, floats, pack, serialized = message.examples.add, self._floats, self._pack_floats, self._strings
        rank = 0
        for categorical, dense, label, position in zip(
            values.categorical, values.dense, values.labels, values.shown_position, strict=True
        ):
            floats[1::2] = dense + label
            add(features=serialized(categorical) + pack(*floats) + _positions(rank, position))
            rank += 1
        message.context.features = self._context(values)
        return message.SerializeToString()

    def _context(self, values: ListValues) -> bytes:
        named: list[tuple[str, str, Any]] = [
            (REQUEST_ID, "bytes_list", [values.request_id.encode()]),
            (REQUEST_TIME, "int64_list", [values.time]),
        ]
        for name, strings in zip(self._context_categorical, values.context_categorical, strict=True):
            named.append((name, "bytes_list", strings))
        for name, number in zip(self._context_dense, values.context_dense, strict=True):
            named.append((name, "float_list", [number]))
        for index, name in enumerate(self._history_categorical):
            column = [each for past in values.history_categorical for each in past[index]]
            named.append((name, "bytes_list", column))
        for name, numbers in zip(self._history_dense, values.history_dense, strict=True):
            named.append((name, "float_list", numbers))
        return _features(named)


def _serialized_strings(names: Sequence[str], values: tuple[Strings, ...]) -> bytes:
    return _features([(name, "bytes_list", each) for name, each in zip(names, values, strict=True)])


def _features(named: Iterable[tuple[str, str, Any]]) -> bytes:
    """Serialized Features of (name, kind of list, values)."""
    message = _Features()
    for name, kind, values in named:
        entry = message.feature.add(key=name)
        found = getattr(entry.value, kind)
        found.SetInParent()  # an empty history is an empty list, not an absent one
        found.value.extend(values)
    return message.SerializeToString()


@functools.lru_cache(1 << 16)
def _positions(rank: int, shown: int) -> bytes:
    return _features([(INITIAL_RANK, "int64_list", [rank]), (SHOWN_POSITION, "int64_list", [shown])])
