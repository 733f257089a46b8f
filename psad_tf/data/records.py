"""The raw record: what a log must hold before it becomes training lists.

Four kinds of records, each one JSON object:

| kind        | keys                                                                                    |
|-------------|-----------------------------------------------------------------------------------------|
| impression  | `request_id`, `user_id`, `time`, `candidates`; optional `context`, `split`, `feedback`   |
| interaction | `user_id`, `item_id`, `time`; optional `feedback`                                        |
| user        | `user_id` and any attributes                                                             |
| item        | `item_id` and any attributes                                                             |

A candidate is `{"item_id", "initial_score"}` with optional `position`, `feedback` and `features`; candidates
stand in the initial ranker's order, best first. `position` is the slot in which the candidate was shown,
counted from 0 and less than the number of candidates; a list may leave slots out (an advertisement stood
there, say). Where no candidate of a list has one, all were shown, in the candidates' order. Where some have,
the others were **not shown**: they may have no feedback, not even a zero, and nothing learns from them.
Identifiers are strings that are not empty, `time` is whole seconds
since 1970-01-01 UTC, feedback values are numbers, every other value is a string, a number or a list of
strings, and null is the same as absent. An impression's own `feedback` is
`{item_id: {name: number}}`, for logs that keep clicks apart from the list shown.

A *raw data folder* holds `impressions.jsonl`, `interactions.jsonl`, `users.jsonl`, `items.jsonl` (one
record per line) and `features.json` (the feature declaration).

This module imports neither TensorFlow nor Beam: readers of data sets, the simulator, the Beam job and
the client all share it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psad_tf.errors import InputError
from psad_tf.features import SPLITS
from psad_tf.files import replaced_file

IMPRESSIONS = "impressions"
INTERACTIONS = "interactions"
USERS = "users"
ITEMS = "items"
KINDS = (IMPRESSIONS, INTERACTIONS, USERS, ITEMS)
FEATURES_FILE = "features.json"

# 1e11 seconds is the year 5138, 1e11 milliseconds is 1973: a larger number is not in seconds.
MAX_TIME = 10**11
MAX_ID_LENGTH = 1024
# Numbers are stored as 32-bit floats.
MAX_NUMBER = 3.4e38

_NUMBERS = frozenset({int, float})

# `FeatureDeclaration.raw_widths`, or that of no declaration.
Widths = Mapping[str, Mapping[str, int]]
_ANY: Widths = {"context": {}, "features": {}}

Value = str | int | float | list[str]


class RecordError(ValueError):
    """A record that breaks the schema.

    Attributes:
        reason: A short code, the dead letter's `reason`: `not_an_object`, `missing_field`, `wrong_type`,
            `empty_id`, `long_id`, `not_finite`, `time_not_in_seconds`, `negative_time`, `time_in_future`,
            `unknown_split`, `no_candidates`, `duplicate_item`, `negative_position`, `position_beyond_list`,
            `duplicate_position` or `feedback_for_item_not_shown`.
        detail: What is wrong and at which key, in one line.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RecordError], tuple[str, str]]:
        return RecordError, (self.reason, self.detail)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One item of a list, as the initial ranker gave it and the user answered it.

    `position` is the slot in which it was shown, from 0; None where it was not shown, or where all were
    shown in the candidates' order.
    """

    item_id: str
    initial_score: float
    feedback: Mapping[str, float] = dataclasses.field(default_factory=dict)
    features: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    position: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The candidate's part of the record."""
        data: dict[str, Any] = {"item_id": self.item_id, "initial_score": self.initial_score}
        if self.position is not None:
            data["position"] = self.position
        return {**data, "feedback": dict(self.feedback), "features": dict(self.features)}


@dataclasses.dataclass(frozen=True)
class Impression:
    """One request: its candidates, best of the initial ranker first, and what was shown of them."""

    request_id: str
    user_id: str
    time: int
    candidates: tuple[Candidate, ...]
    context: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    split: str | None = None

    def shown(self) -> list[Candidate]:
        """The candidates that were shown, in the initial order: all, where none has a position."""
        shown = [candidate for candidate in self.candidates if candidate.position is not None]
        return shown or list(self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the record."""
        data: dict[str, Any] = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "time": self.time,
            "context": dict(self.context),
            "candidates": [candidate.to_dict() for candidate in self.candidates],
        }
        if self.split is not None:
            data["split"] = self.split
        return data

    @classmethod
    def from_dict(cls, data: Any) -> Impression:
        """Reads a JSON object; raises `RecordError` where it breaks the schema."""
        check_impression(data)
        shown_feedback = data.get("feedback") or {}
        return cls(
            request_id=data["request_id"],
            user_id=data["user_id"],
            time=data["time"],
            candidates=tuple(
                Candidate(
                    item_id=candidate["item_id"],
                    initial_score=float(candidate["initial_score"]),
                    feedback=present(candidate.get("feedback"))
                    | present(shown_feedback.get(candidate["item_id"])),
                    features=present(candidate.get("features")),
                    position=candidate.get("position"),
                )
                for candidate in data["candidates"]
            ),
            context=present(data.get("context")),
            split=data.get("split"),
        )


@dataclasses.dataclass(frozen=True)
class Interaction:
    """One past interaction of a user with an item."""

    user_id: str
    item_id: str
    time: int
    feedback: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the record."""
        return {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "time": self.time,
            "feedback": dict(self.feedback),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Interaction:
        """Reads a JSON object; raises `RecordError` where it breaks the schema."""
        check_interaction(data)
        return cls(data["user_id"], data["item_id"], data["time"], present(data.get("feedback")))


def present(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """The values that are there: without nulls.

    Example:
        >>> present({"hour": 3, "device": None})
        {'hour': 3}
    """
    return {key: value for key, value in (values or {}).items() if value is not None}


def check_impression(data: Any, latest_time: int | None = None, widths: Widths = _ANY) -> None:
    """Checks an impression's JSON object.

    Args:
        data: The decoded JSON.
        latest_time: Seconds; a later request is an error. None allows any time.
        widths: A declaration's `raw_widths`: of the features that it names the dense ones must be numbers.

    Raises:
        RecordError: Naming the first thing that is wrong.
    """
    _check_object(data, "impression")
    _check_id(data, "request_id", "")
    _check_id(data, "user_id", "")
    _check_time(data, latest_time)
    split = data.get("split")
    if split is not None and split not in SPLITS:
        raise RecordError("unknown_split", f"split: {split!r} is not one of {', '.join(SPLITS)}")
    _check_values(data.get("context"), "context", widths["context"])
    candidates = data.get("candidates")
    if candidates is None:
        raise RecordError("missing_field", "candidates: is missing")
    if not isinstance(candidates, list):
        raise RecordError("wrong_type", f"candidates: expected a list, got {_named(candidates)}")
    if not candidates:
        raise RecordError("no_candidates", "candidates: the list is empty")
    item_ids = set()
    for index, candidate in enumerate(candidates):
        item_id = _check_candidate(candidate, index, widths["features"])
        if item_id in item_ids:
            raise RecordError(
                "duplicate_item", f"candidates[{index}]: item {item_id!r} is already in the list"
            )
        item_ids.add(item_id)
    feedback = data.get("feedback")
    if feedback is not None:
        if not isinstance(feedback, dict):
            raise RecordError("wrong_type", f"feedback: expected an object, got {_named(feedback)}")
        for item_id, values in feedback.items():
            if item_id not in item_ids:
                raise RecordError(
                    "feedback_for_item_not_shown", f"feedback: item {item_id!r} is not in the list"
                )
            _check_numbers(values, f"feedback.{item_id}")
    _check_positions(candidates, feedback or {})


def shown_positions(candidates: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """The slot in which each candidate of a checked list was shown, -1 where it was not shown.

    Example:
        >>> list(shown_positions([{"item_id": "a"}, {"item_id": "b"}]))
        [0, 1]
        >>> list(shown_positions([{"item_id": "a"}, {"item_id": "b", "position": 0}]))
        [-1, 0]
    """
    positions = [candidate.get("position") for candidate in candidates]
    if all(position is None for position in positions):
        return range(len(positions))
    return [-1 if position is None else position for position in positions]


def cut_candidates(
    candidates: Sequence[Mapping[str, Any]], max_candidates: int
) -> Sequence[Mapping[str, Any]]:
    """The `max_candidates` of a checked list that are worth keeping, in their order.

    The shown ones come first, the foremost slots before others, then those of the best initial rank. A slot
    beyond the shorter list is left out.

    Example:
        >>> listed = [{"item_id": "a"}, {"item_id": "b"}, {"item_id": "c", "position": 0}]
        >>> [each["item_id"] for each in cut_candidates(listed, 2)]
        ['a', 'c']
    """
    if all(candidate.get("position") is None for candidate in candidates):
        return candidates[:max_candidates]
    slots = [len(candidates) if slot < 0 else slot for slot in shown_positions(candidates)]
    allowed = [index for index, slot in enumerate(slots) if slot < max_candidates or slot == len(candidates)]
    kept = sorted(allowed, key=lambda index: slots[index])[:max_candidates]
    return [candidates[index] for index in sorted(kept)]


def check_interaction(data: Any, latest_time: int | None = None) -> None:
    """Checks an interaction's JSON object; see `check_impression`."""
    _check_object(data, "interaction")
    _check_id(data, "user_id", "")
    _check_id(data, "item_id", "")
    _check_time(data, latest_time)
    feedback = data.get("feedback")
    if feedback is not None:
        _check_numbers(feedback, "feedback")


def check_row(data: Any, latest_time: int | None = None, widths: Widths = _ANY) -> None:
    """Checks a row of a flat log: one candidate with its user and time; see `check_impression`.

    A row has `user_id`, `time`, `item_id`, `initial_score` and, optionally, `request_id`, `position` (the
    slot in which it was shown, from 0), `split`, `feedback`, `features` and `context`.
    """
    _check_object(data, "row")
    if data.get("request_id") is not None:
        _check_id(data, "request_id", "")
    _check_id(data, "user_id", "")
    _check_time(data, latest_time)
    split = data.get("split")
    if split is not None and split not in SPLITS:
        raise RecordError("unknown_split", f"split: {split!r} is not one of {', '.join(SPLITS)}")
    _check_id(data, "item_id", "")
    if data.get("initial_score") is None:
        raise RecordError("missing_field", "initial_score: is missing")
    _check_number(data["initial_score"], "initial_score")
    if data.get("position") is not None:
        _check_position(data["position"], "position")
    if data.get("feedback") is not None:
        _check_numbers(data["feedback"], "feedback")
    for part in ("features", "context"):
        _check_values(data.get(part), part, widths[part])


def check_attributes(data: Any, key: str, widths: Widths = _ANY) -> None:
    """Checks a user's or an item's JSON object; `key` is `user_id` or `item_id`. See `check_impression`.

    Raises:
        RecordError: Naming the first thing that is wrong.
    """
    kind, part = ("user", "context") if key == "user_id" else ("item", "features")
    _check_object(data, kind)
    _check_id(data, key, "")
    _check_values(data, "", widths[part])


def _check_candidate(candidate: Any, index: int, widths: Mapping[str, int]) -> str:
    if not isinstance(candidate, dict):
        raise RecordError("wrong_type", f"candidates[{index}]: expected an object, got {_named(candidate)}")
    item_id = candidate.get("item_id")
    if not (isinstance(item_id, str) and 0 < len(item_id) <= MAX_ID_LENGTH):
        _check_id(candidate, "item_id", f"candidates[{index}].")
    score = candidate.get("initial_score")
    if not (type(score) is float and -MAX_NUMBER < score < MAX_NUMBER):
        if score is None:
            raise RecordError("missing_field", f"candidates[{index}].initial_score: is missing")
        _check_number(score, f"candidates[{index}].initial_score")
    feedback = candidate.get("feedback")
    if feedback and not _are_plain_numbers(feedback):
        _check_numbers(feedback, "feedback", index)
    features = candidate.get("features")
    if features:
        _check_values(features, "features", widths, index)
    return item_id  # type: ignore[return-value]


def _check_positions(
    candidates: Sequence[Mapping[str, Any]], feedback: Mapping[str, Mapping[str, Any] | None]
) -> None:
    """Checks the slots of a list, and that what was not shown has no feedback."""
    given = [position for each in candidates if (position := each.get("position")) is not None]
    if not given:
        return
    whole = set(map(type, given)) == {int}
    if not (whole and len(set(given)) == len(given) and 0 <= min(given) <= max(given) < len(candidates)):
        _check_each_position(candidates)
    if len(given) == len(candidates):
        return
    for index, candidate in enumerate(candidates):
        if candidate.get("position") is None:
            both = [candidate.get("feedback"), feedback.get(candidate["item_id"])]
            names = sorted({name for each in both for name in present(each)})
            if names:
                raise RecordError(
                    "feedback_for_item_not_shown",
                    f"candidates[{index}].feedback: {', '.join(names)} of a candidate that has no position, "
                    "so was not shown, where others have one",
                )


def _check_each_position(candidates: Sequence[Mapping[str, Any]]) -> None:
    """The slower check, which names a mistake."""
    taken = set()
    for index, candidate in enumerate(candidates):
        position = candidate.get("position")
        if position is None:
            continue
        where = f"candidates[{index}].position"
        _check_position(position, where)
        if position >= len(candidates):
            raise RecordError(
                "position_beyond_list",
                f"{where}: {position}, but {len(candidates)} candidates fill the slots 0 to "
                f"{len(candidates) - 1}",
            )
        if position in taken:
            raise RecordError("duplicate_position", f"{where}: slot {position} is already taken")
        taken.add(position)


def _check_position(position: Any, where: str) -> None:
    if isinstance(position, bool) or not isinstance(position, int):
        raise RecordError("wrong_type", f"{where}: expected a whole number, got {_named(position)}")
    if position < 0:
        raise RecordError("negative_position", f"{where}: {position}, but slots are counted from 0")


def _check_object(data: Any, kind: str) -> None:
    if not isinstance(data, dict):
        raise RecordError("not_an_object", f"expected an {kind}'s object, got {_named(data)}")


def _check_id(data: Mapping[str, Any], key: str, prefix: str) -> None:
    value = data.get(key)
    if value is None:
        raise RecordError("missing_field", f"{prefix}{key}: is missing")
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{prefix}{key}: expected a string, got {_named(value)}")
    if not value:
        raise RecordError("empty_id", f"{prefix}{key}: is empty")
    if len(value) > MAX_ID_LENGTH:
        raise RecordError("long_id", f"{prefix}{key}: {len(value)} characters, at most {MAX_ID_LENGTH}")


def _check_time(data: Mapping[str, Any], latest_time: int | None) -> None:
    time = data.get("time")
    if time is None:
        raise RecordError("missing_field", "time: is missing")
    if isinstance(time, bool) or not isinstance(time, int):
        raise RecordError("wrong_type", f"time: expected whole seconds, got {_named(time)}")
    if time < 0:
        raise RecordError("negative_time", f"time: {time} is before 1970")
    if time > MAX_TIME:
        raise RecordError("time_not_in_seconds", f"time: {time} is not in seconds (milliseconds?)")
    if latest_time is not None and time > latest_time:
        raise RecordError("time_in_future", f"time: {time} is later than {latest_time}")


def _check_numbers(values: Any, where: str, index: int | None = None) -> None:
    if not isinstance(values, dict):
        raise RecordError("wrong_type", f"{_at(where, index)}: expected an object, got {_named(values)}")
    for name, value in values.items():
        if value is not None and not (type(value) in (int, float) and -MAX_NUMBER < value < MAX_NUMBER):
            _check_number(value, f"{_at(where, index)}.{name}")


def _are_plain_numbers(values: Any) -> bool:
    """True where all is surely well, so that the slower check that names a mistake is not needed."""
    if type(values) is not dict:
        return False
    for value in values.values():
        if not (type(value) in _NUMBERS and -MAX_NUMBER < value < MAX_NUMBER):
            return False
    return True


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError("wrong_type", f"{where}: expected a number, got {_named(value)}")
    if not -MAX_NUMBER < value < MAX_NUMBER:
        raise RecordError("not_finite", f"{where}: {value!r:.40} is not a finite 32-bit number")


def _check_values(values: Any, where: str, widths: Mapping[str, int], index: int | None = None) -> None:
    if values is None:
        return
    if not isinstance(values, dict):
        raise RecordError("wrong_type", f"{_at(where, index)}: expected an object, got {_named(values)}")
    for name, value in values.items():
        if value is None or (isinstance(value, str) and widths.get(name) != 0):
            continue
        if type(value) in _NUMBERS and -MAX_NUMBER < value < MAX_NUMBER:
            continue
        place = f"{_at(where, index)}.{name}".lstrip(".")
        if isinstance(value, str | list) and widths.get(name) == 0:
            raise RecordError(
                "wrong_type", f"{place}: declared dense, but holds {str(value)[:40]!r}, not a number"
            )
        if isinstance(value, list):
            for each in value:
                if not isinstance(each, str):
                    raise RecordError(
                        "wrong_type", f"{place}: expected strings in the list, got {_named(each)}"
                    )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(value, place)
        else:
            raise RecordError(
                "wrong_type",
                f"{place}: expected a string, a number or a list of strings, got {_named(value)}",
            )


def _at(where: str, index: int | None) -> str:
    return where if index is None else f"candidates[{index}].{where}"


def _named(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, bool):
        return str(value).lower()
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value)) or repr(value)[:40]


def write_json_lines(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> int:
    """Writes records, one JSON object a line, aside and then renamed.

    Returns:
        The number of records written.
    """
    count = 0
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
            file.write("\n")
            count += 1
    return count


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Reads one JSON object a line; empty lines are passed over.

    Raises:
        InputError: The file is missing or a line is not a JSON object; it names file and line.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.isspace():
                    continue
                try:
                    record = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise InputError(f"{name}:{number}: not JSON ({error})") from None
                if not isinstance(record, dict):
                    raise InputError(f"{name}:{number}: expected an object, got {_named(record)}")
                yield record
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
