"""From raw records to the values of a list's features: one rule for logs and for requests.

Whatever decides a feature's value is decided here, for training lists and for served requests alike:

* **Values.** A categorical feature is looked up in the request's context (or the candidate's features) first,
  then among the user's (or the item's) attributes. It has `width` strings, filled up with `""`; a number is
  written as text. A missing number is NaN.
* **Clock.** `request_hour` (0 to 23) and `request_weekday` (Monday is 0) are the request time's in UTC,
  unless the context gives them.
* **History.** The last H interactions *before* the request's second, newest first. Interactions of one second
  stand by the bytes of their item id and then of their feedback (`RecordEncoder.interaction` makes bytes that
  sort so), so that a log's order of lines changes nothing.
* **Shown positions.** Where no candidate of a list names a position, all were shown in their order. Where
  some do, the others were not shown: their position is -1, and their feedback is no label.
* **Labels.** `labeler` below.

Pure Python: it imports neither TensorFlow nor Beam.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from psad_tf.data.records import shown_positions
from psad_tf.features import (
    AGE_SECONDS,
    INITIAL_SCORE,
    ITEM_ID,
    USER_ID,
    CategoricalFeature,
    FeatureDeclaration,
    LabelDeclaration,
)

NAN = float("nan")
REMEMBERED_ITEMS = 50_000
_HOUR, _DAY = 3600, 86400
_MOMENT = struct.Struct(">Q")

Strings = tuple[bytes, ...]


class ItemValues(NamedTuple):
    """What a list takes of one item.

    Attributes:
        known: False where there is no such item.
        categorical: For each categorical candidate feature its strings, in UTF-8.
        dense: The number of each dense candidate feature.
        history: For each categorical history feature its strings.
    """

    known: bool
    categorical: tuple[Strings, ...]
    dense: tuple[float, ...]
    history: tuple[Strings, ...]


class ListValues(NamedTuple):
    """The values of a list's features, in the declaration's order.

    Attributes:
        request_id: The request.
        time: Seconds since 1970 UTC.
        context_categorical: For each feature its strings, in UTF-8.
        context_dense: A number for each feature.
        history_categorical: For each interaction, newest first, the strings of each feature.
        history_dense: For each feature the numbers of all interactions.
        categorical: For each candidate the strings of each feature.
        dense: For each candidate the number of each feature.
        labels: For each candidate (relevance, negative).
        shown_position: For each candidate its slot, -1 where it was not shown.
        unknown_items: Candidates whose item has no attributes.
    """

    request_id: str
    time: int
    context_categorical: list[Strings]
    context_dense: list[float]
    history_categorical: list[tuple[Strings, ...]]
    history_dense: list[list[float]]
    categorical: list[tuple[Strings, ...]]
    dense: list[tuple[float, ...]]
    labels: list[tuple[float, float]]
    shown_position: Sequence[int]
    unknown_items: int


class RecordEncoder:
    """Encodes lists after a feature declaration.

    Args:
        declaration: The features.
        attributes: Item id -> the item's attributes, None for an unknown item. The last 50,000 items are
            remembered.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        attributes: Callable[[str], Mapping[str, Any] | None] = lambda item_id: None,
    ) -> None:
        self._context_categorical = declaration.context_categorical
        self._context_dense = [feature.name for feature in declaration.context_dense]
        history = declaration.history
        self._history_categorical = history.categorical
        self._history_dense = [feature.name for feature in history.dense]
        # By name, so that ties fall the same way for a client that knows the names but not their order.
        self._feedback_names = sorted(name for name in self._history_dense if name != AGE_SECONDS)
        self._interaction = struct.Struct(f"<{len(self._feedback_names)}f")
        self._of_item = slice(8, -self._interaction.size or None)
        self._categorical = declaration.candidate_categorical
        self._own_categorical = [
            (index, feature)
            for index, feature in enumerate(declaration.candidate_categorical)
            if feature.name != ITEM_ID
        ]
        self._own_names = frozenset(feature.name for _, feature in self._own_categorical)
        self._dense = [feature.name for feature in declaration.candidate_dense]
        self._score_at = self._dense.index(INITIAL_SCORE) if INITIAL_SCORE in self._dense else -1
        self._own_dense = [pair for pair in enumerate(self._dense) if pair[1] != INITIAL_SCORE]
        self._label = labeler(declaration.label)
        # Not methods: in a cycle with the encoder, what is remembered would wait for Python's collector.
        item = functools.lru_cache(REMEMBERED_ITEMS)(
            functools.partial(_item, attributes, self._categorical, self._dense, self._history_categorical)
        )
        self.item = item
        self._past = functools.lru_cache(REMEMBERED_ITEMS)(lambda past: item(text_of(past)).history)

    def interaction(self, time: int, item_id: str, feedback: Mapping[str, float | None] | None) -> bytes:
        """An interaction as bytes that sort as a history does: by time, item id and feedback.

        Args:
            time: Seconds since 1970 UTC.
            item_id: The item.
            feedback: Its numbers by name; only the declared ones are kept.
        """
        given = feedback or {}
        numbers = [number(given.get(name)) for name in self._feedback_names]
        return time.to_bytes(8, "big") + sortable(item_id) + self._interaction.pack(*numbers)

    def past_item(self, interaction: bytes) -> str:
        """The item of an interaction that `interaction` made."""
        return text_of(interaction[self._of_item])

    def history(self, interactions: Iterable[bytes], time: int, length: int) -> list[bytes]:
        """The last `length` interactions before `time`, oldest first."""
        moment = time.to_bytes(8, "big")
        return sorted(each for each in interactions if each[:8] < moment)[-length:]

    def encode(
        self,
        data: Mapping[str, Any],
        user: Mapping[str, Any] | None = None,
        history: Sequence[bytes] = (),
    ) -> ListValues:
        """Encodes one list.

        Args:
            data: A checked impression (`psad_tf.data.records`); a request has the same keys.
            user: The user's attributes.
            history: What `history` gives.
        """
        time: int = data["time"]
        candidates = data["candidates"]
        given, known = data.get("context") or {}, user or {}
        context_categorical = []
        for feature in self._context_categorical:
            value = data[USER_ID] if feature.name == USER_ID else given.get(feature.name)
            if value is None and feature.name in _CLOCK:
                value = _CLOCK[feature.name](time)
            if value is None:
                value = known.get(feature.name)
            context_categorical.append(strings(value, feature.width))
        context_dense = []
        for name in self._context_dense:
            value = given.get(name)
            context_dense.append(number(known.get(name) if value is None else value))
        history_categorical, history_dense = self._history(history, time)
        own_feedback = data.get("feedback")
        shown_position = shown_positions(candidates)
        item_of, label, score_at = self.item, self._label, self._score_at
        own_dense, own_names = self._own_dense, self._own_names
        categorical, dense, labels = [], [], []
        unknown = 0
        for candidate, position in zip(candidates, shown_position, strict=True):
            item_id, features = candidate[ITEM_ID], candidate.get("features")
            is_known, values, item_numbers, _ = item_of(item_id)
            unknown += not is_known
            numbers = list(item_numbers)
            if score_at >= 0:
                numbers[score_at] = number(candidate.get(INITIAL_SCORE))
            if features:
                for index, name in own_dense:
                    value = features.get(name)
                    if value is not None:
                        numbers[index] = value
                if not own_names.isdisjoint(features):
                    values = self._overridden(values, features)
            categorical.append(values)
            dense.append(tuple(numbers))
            feedback = candidate.get("feedback") or {}
            if own_feedback and item_id in own_feedback:
                feedback = feedback | own_feedback[item_id]
            labels.append(label(feedback) if position >= 0 else (0.0, 0.0))
        return ListValues(
            data["request_id"], time, context_categorical, context_dense, history_categorical, history_dense,
            categorical, dense, labels, shown_position, unknown,
        )  # fmt: skip

    def _history(
        self, interactions: Sequence[bytes], time: int
    ) -> tuple[list[tuple[Strings, ...]], list[list[float]]]:
        past, of_item, size = self._past, self._of_item, self._interaction.size
        newest_first = interactions[::-1]
        categorical = [past(each[of_item]) for each in newest_first]
        now, moments = float(time), _MOMENT.iter_unpack(b"".join([each[:8] for each in newest_first]))
        columns: Iterable[Iterable[float]] = [() for _ in self._feedback_names]
        if size and newest_first:
            feedback = self._interaction.iter_unpack(b"".join([each[-size:] for each in newest_first]))
            columns = zip(*feedback, strict=True)
        numbers = {AGE_SECONDS: [now - moment for (moment,) in moments]}
        numbers |= zip(self._feedback_names, map(list, columns), strict=True)
        return categorical, [numbers[name] for name in self._history_dense]

    def _overridden(self, values: tuple[Strings, ...], features: Mapping[str, Any]) -> tuple[Strings, ...]:
        own = list(values)
        for index, feature in self._own_categorical:
            value = features.get(feature.name)
            if value is not None:
                own[index] = strings(value, feature.width)
        return tuple(own)


def _item(
    attributes: Callable[[str], Mapping[str, Any] | None],
    categorical: Sequence[CategoricalFeature],
    dense: Sequence[str],
    history_categorical: Sequence[CategoricalFeature],
    item_id: str,
) -> ItemValues:
    known = attributes(item_id)
    found = {**(known or {}), ITEM_ID: item_id}
    return ItemValues(
        known is not None,
        tuple(strings(found.get(each.name), each.width) for each in categorical),
        tuple(number(found.get(name)) for name in dense),
        tuple(strings(found.get(each.name), each.width) for each in history_categorical),
    )


def strings(value: Any, width: int) -> Strings:
    """A raw value as the `width` strings of a categorical feature, in UTF-8.

    Example:
        >>> strings(["drama", "war"], 3), strings(1997, 1), strings(None, 1)
        ((b'drama', b'war', b''), (b'1997',), (b'',))
    """
    if value is None:
        found: Strings = ()
    elif isinstance(value, str):
        found = (value.encode(),)
    elif isinstance(value, list):
        found = tuple([each.encode() for each in value[:width]])
    elif isinstance(value, float) and not value.is_integer():
        found = (repr(value).encode(),)
    else:
        found = (str(int(value)).encode(),)
    return found if len(found) == width else (*found, *(b"",) * (width - len(found)))


def number(value: Any) -> float:
    """A raw value as a dense feature's number; missing is NaN."""
    return NAN if value is None else float(value)


def sortable(text: str) -> bytes:
    """Text as bytes that sort as its UTF-8 does, whatever bytes follow them.

    Example:
        >>> sortable("a") + b"z" < sortable("ab") + b"a"
        True
    """
    return text.encode().replace(b"\0", b"\0\xff") + b"\0\0"


def text_of(data: bytes) -> str:
    """The text that `sortable` wrote.

    Example:
        >>> text_of(sortable("a\\0b"))
        'a\\x00b'
    """
    return data[:-2].replace(b"\0\xff", b"\0").decode()


def labeler(declaration: LabelDeclaration) -> Callable[[Mapping[str, float | None]], tuple[float, float]]:
    """Makes the function feedback -> (relevance, negative).

        relevance = max({grade of r : feedback[r.feedback] >= r.at_least} ∪ {0})
        negative = 1 if relevance = 0 and feedback[n.feedback] <= n.at_most for some n, else 0

    A feedback that is absent or null satisfies no rule.

    Example:
        >>> from psad_tf.features import LabelRule, NegativeRule
        >>> label = labeler(LabelDeclaration((LabelRule("rating", 4, 1), LabelRule("rating", 5, 2)),
        ...                                  (NegativeRule("rating", 1),)))
        >>> label({"rating": 5}), label({"rating": 1}), label({})
        ((2.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    """
    # The highest grade first: the first rule that holds decides.
    grades = [
        (rule.feedback, rule.at_least, float(rule.grade))
        for rule in sorted(declaration.grades, key=lambda rule: -rule.grade)
    ]
    negatives = [(rule.feedback, rule.at_most) for rule in declaration.negatives]

    def label(feedback: Mapping[str, float | None]) -> tuple[float, float]:
        for name, at_least, grade in grades:
            value = feedback.get(name)
            if value is not None and value >= at_least:
                return grade, 0.0
        for name, at_most in negatives:
            value = feedback.get(name)
            if value is not None and value <= at_most:
                return 0.0, 1.0
        return 0.0, 0.0

    return label


# Monday is 0; 1970-01-01 was a Thursday.
_CLOCK: dict[str, Callable[[int], str]] = {
    "request_hour": lambda time: str(time % _DAY // _HOUR),
    "request_weekday": lambda time: str((time // _DAY + 3) % 7),
}
