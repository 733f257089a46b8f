"""A checked impression, its user and its history -> the bytes of an ExampleListWithContext.

The features' names and shapes on the wire are the table in `psad_tf/features.py`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from psad_tf.beam import wire
from psad_tf.beam.transforms.items import remembering
from psad_tf.beam.transforms.labels import labeler
from psad_tf.data.records import shown_positions
from psad_tf.features import (
    AGE_SECONDS,
    HISTORY_PREFIX,
    INITIAL_RANK,
    INITIAL_SCORE,
    ITEM_ID,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    REQUEST_TIME,
    SHOWN_POSITION,
    USER_ID,
    CategoricalFeature,
    FeatureDeclaration,
)

NAN = float("nan")
_HOUR, _DAY = 3600, 86400


class ItemView(NamedTuple):
    """What is ready to be joined of one item.

    Attributes:
        known: False where the item table has no such item.
        entries: One map entry for each categorical candidate feature.
        block: The entries joined.
        values: The strings of each categorical candidate feature.
        dense: The number of each dense candidate feature, NaN where missing.
        history: The byte values of each categorical history feature.
        history_values: The strings of each categorical history feature.
    """

    known: bool
    entries: tuple[bytes, ...]
    block: bytes
    values: tuple[tuple[str, ...], ...]
    dense: tuple[float, ...]
    history: tuple[bytes, ...]
    history_values: tuple[tuple[str, ...], ...]


class UserView(NamedTuple):
    """What is ready to be joined of one user.

    Attributes:
        known: False where the user has no row.
        categorical: For each categorical context feature, the user's strings and their map entry.
        dense: For each dense context feature, the user's number and its map entry.
    """

    known: bool
    categorical: dict[str, tuple[tuple[str, ...], bytes]]
    dense: dict[str, tuple[float, bytes]]


class Past(NamedTuple):
    """One interaction of a history: its time, item, the item's view and the numbers of its feedback."""

    time: int
    item_id: str
    view: ItemView
    feedback: tuple[float, ...]


class EncodedList(NamedTuple):
    """A list and what the vocabularies and statistics need of it.

    Attributes:
        data: Serialized ExampleListWithContext.
        context_values: The strings of each categorical context feature.
        context_dense: The number of each dense context feature.
        views: Each candidate's item.
        plain_items: Candidates whose categorical features are their item's.
        candidate_values: For every other candidate, the strings of each categorical feature.
        candidate_dense: For each candidate, the number of each dense feature.
    """

    data: bytes
    context_values: list[tuple[str, ...]]
    context_dense: list[float]
    views: list[ItemView]
    plain_items: list[str]
    candidate_values: list[tuple[tuple[str, ...], ...]]
    candidate_dense: list[tuple[float, ...]]


class ListEncoder:
    """Encodes lists after a feature declaration.

    Args:
        declaration: The features.
        attributes: Item id -> the item's attributes, None for an unknown item.
    """

    def __init__(
        self, declaration: FeatureDeclaration, attributes: Callable[[str], dict[str, Any] | None]
    ) -> None:
        self._context_categorical = declaration.context_categorical
        self._context_dense = [feature.name for feature in declaration.context_dense]
        self._history_categorical = declaration.history.categorical
        self._history_dense = [feature.name for feature in declaration.history.dense]
        self._candidate_categorical = declaration.candidate_categorical
        self._categorical_names = frozenset(feature.name for feature in declaration.candidate_categorical) - {
            ITEM_ID
        }
        self._candidate_dense = [feature.name for feature in declaration.candidate_dense]
        self._score_at = (
            self._candidate_dense.index(INITIAL_SCORE) if INITIAL_SCORE in self._candidate_dense else -1
        )
        self._own_dense = [
            (index, name) for index, name in enumerate(self._candidate_dense) if name != INITIAL_SCORE
        ]
        self._attributes = attributes
        self._label = labeler(declaration.label)
        names = [*self._candidate_dense, RELEVANCE, NEGATIVE]
        prefixes = [wire.float_prefix(name) for name in names]
        # "<12sf14sf": each feature's constant bytes, then its number.
        self._pack_floats = struct.Struct("<" + "".join(f"{len(prefix)}sf" for prefix in prefixes)).pack
        # Constant bytes and numbers in turn; the numbers are set for each candidate.
        self._floats = [each for prefix in prefixes for each in (prefix, 0.0)]
        self._ranks = [wire.int_entry(INITIAL_RANK, rank) for rank in range(declaration.max_candidates)]
        self._positions = [
            wire.int_entry(SHOWN_POSITION, position) for position in range(-1, declaration.max_candidates)
        ]
        self.item = remembering(self._view_item)

    def user(self, user_id: str, attributes: Mapping[str, Any] | None) -> UserView:
        """Prepares a user's attributes."""
        found = {**(attributes or {}), USER_ID: user_id}
        categorical = {}
        for feature in self._context_categorical:
            values = strings(found.get(feature.name), feature.width)
            categorical[feature.name] = values, _entry(feature, values)
        dense = {}
        for name in self._context_dense:
            value = number(found.get(name))
            dense[name] = value, wire.floats_entry(name, struct.pack("<f", value))
        return UserView(attributes is not None, categorical, dense)

    def encode(self, data: Mapping[str, Any], user: UserView, history: deque[Past]) -> EncodedList:
        """Encodes one list.

        Args:
            data: A checked impression.
            user: Its user.
            history: The user's last interactions before the request, oldest first.
        """
        context_values, context_dense, context = self._encode_context(data, user, history)
        views: list[ItemView] = []
        plain_items: list[str] = []
        candidate_values: list[tuple[tuple[str, ...], ...]] = []
        candidate_dense: list[tuple[float, ...]] = []
        candidates = []
        shown_feedback = data.get("feedback")
        score_at, own_dense = self._score_at, self._own_dense
        floats, pack, ranks, label, item = (
            self._floats,
            self._pack_floats,
            self._ranks,
            self._label,
            self.item,
        )
        positions = shown_positions(data["candidates"])
        for rank, (candidate, position) in enumerate(zip(data["candidates"], positions, strict=True)):
            item_id = candidate["item_id"]
            view = item(item_id)
            views.append(view)
            dense = [*view.dense]
            if score_at >= 0:
                dense[score_at] = candidate["initial_score"]
            block = view.block
            features = candidate.get("features")
            if features:
                for index, name in own_dense:
                    value = features.get(name)
                    if value is not None:
                        dense[index] = value
                if self._categorical_names.isdisjoint(features):
                    plain_items.append(item_id)
                else:
                    block, values = self._overridden(view, features)
                    candidate_values.append(values)
            else:
                plain_items.append(item_id)
            feedback = candidate.get("feedback") or {}
            if shown_feedback and item_id in shown_feedback:
                feedback = feedback | shown_feedback[item_id]
            candidate_dense.append(tuple(dense))
            dense += label(feedback)
            floats[1::2] = dense
            candidates.append((block, pack(*floats), ranks[rank] + self._positions[position + 1]))
        return EncodedList(
            wire.list_with_context(context, candidates),
            context_values, context_dense, views, plain_items, candidate_values, candidate_dense,
        )  # fmt: skip

    def _encode_context(
        self, data: Mapping[str, Any], user: UserView, history: deque[Past]
    ) -> tuple[list[tuple[str, ...]], list[float], bytes]:
        time = data["time"]
        given = data.get("context") or {}
        entries = [
            wire.bytes_entry(REQUEST_ID, wire.byte_values([data["request_id"].encode()])),
            wire.int_entry(REQUEST_TIME, time),
        ]
        all_values = []
        for feature in self._context_categorical:
            name = feature.name
            value = given.get(name) if name != USER_ID else None
            if value is None and name in _CLOCK:
                value = _CLOCK[name](time)
            if value is None:
                values, entry = user.categorical[name]
            else:
                values = strings(value, feature.width)
                entry = _entry(feature, values)
            all_values.append(values)
            entries.append(entry)
        numbers = []
        for name in self._context_dense:
            value = given.get(name)
            if value is None:
                value, entry = user.dense[name]
            else:
                entry = wire.floats_entry(name, struct.pack("<f", value))
            numbers.append(float(value))
            entries.append(entry)
        recent = list(history)
        recent.reverse()
        for index, feature in enumerate(self._history_categorical):
            encoded = b"".join([past.view.history[index] for past in recent])
            entries.append(wire.bytes_entry(HISTORY_PREFIX + feature.name, encoded))
        position = 0
        for name in self._history_dense:
            if name == AGE_SECONDS:
                column: list[float] = [time - past.time for past in recent]
            else:
                column = [past.feedback[position] for past in recent]
                position += 1
            entries.append(wire.floats_entry(HISTORY_PREFIX + name, struct.pack(f"<{len(column)}f", *column)))
        return all_values, numbers, wire.example(b"".join(entries))

    def _overridden(
        self, view: ItemView, features: Mapping[str, Any]
    ) -> tuple[bytes, tuple[tuple[str, ...], ...]]:
        entries, all_values = list(view.entries), list(view.values)
        for index, feature in enumerate(self._candidate_categorical):
            value = features.get(feature.name)
            if value is not None and feature.name != ITEM_ID:
                all_values[index] = strings(value, feature.width)
                entries[index] = _entry(feature, all_values[index])
        return b"".join(entries), tuple(all_values)

    def _view_item(self, item_id: str) -> ItemView:
        attributes = self._attributes(item_id)
        found = {**(attributes or {}), ITEM_ID: item_id}
        values = tuple(strings(found.get(each.name), each.width) for each in self._candidate_categorical)
        entries = tuple(map(_entry, self._candidate_categorical, values))
        history_values = tuple(
            strings(found.get(each.name), each.width) for each in self._history_categorical
        )
        return ItemView(
            known=attributes is not None,
            entries=entries,
            block=b"".join(entries),
            values=values,
            dense=tuple(number(found.get(name)) for name in self._candidate_dense),
            history=tuple(map(_byte_values, history_values)),
            history_values=history_values,
        )


def strings(value: Any, width: int) -> tuple[str, ...]:
    """A raw value as the `width` strings of a categorical feature.

    Example:
        >>> strings(["drama", "war"], 3), strings(1997, 1), strings(None, 1)
        (('drama', 'war', ''), ('1997',), ('',))
    """
    if value is None:
        found: Sequence[str] = ()
    elif isinstance(value, str):
        found = (value,)
    elif isinstance(value, list):
        found = value[:width]
    elif isinstance(value, float) and not value.is_integer():
        found = (repr(value),)
    else:
        found = (str(int(value)),)
    return (*found, *("",) * (width - len(found)))


def number(value: Any) -> float:
    """A raw value as a dense feature's number; missing is NaN."""
    return NAN if value is None else float(value)


def _byte_values(values: Sequence[str]) -> bytes:
    return wire.byte_values([value.encode() for value in values])


def _entry(feature: CategoricalFeature, values: Sequence[str]) -> bytes:
    return wire.bytes_entry(feature.name, _byte_values(values))


# Monday is 0; 1970-01-01 was a Thursday.
_CLOCK: dict[str, Callable[[int], str]] = {
    "request_hour": lambda time: str(time % _DAY // _HOUR),
    "request_weekday": lambda time: str((time // _DAY + 3) % 7),
}
