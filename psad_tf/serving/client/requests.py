"""A request for a ranking, in plain Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from psad_tf.data.records import present
from psad_tf.errors import InputError
from psad_tf.features import ITEM_ID

Value = str | float | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class HistoryItem:
    """A past interaction of the user.

    Args:
        item_id: The item.
        time: When, in seconds since 1970-01-01 UTC.
        feedback: What the user did, by name, a rating for instance.
        features: Attributes of the item.
    """

    item_id: str
    time: float = math.nan
    feedback: Mapping[str, float] = dataclasses.field(default_factory=dict)
    features: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An item to rank.

    Args:
        item_id: The item.
        initial_score: The initial ranker's score.
        features: Attributes of the item, and features of item and request together.
        blocked: Whether it must not be shown.
    """

    item_id: str
    initial_score: float = math.nan
    features: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    blocked: bool = False


@dataclasses.dataclass(frozen=True)
class RerankRequest:
    """One list to rerank.

    Args:
        user_id: The user.
        candidates: In the initial ranker's order, best first.
        history: The user's past interactions, in any order where they have times, else newest first; those at
            or after the request's second are left out.
        user: Attributes of the user.
        context: Facts about the request.
        time: When, in seconds since 1970-01-01 UTC; NaN leaves everything that depends on it missing.
        request_id: For logs.
    """

    user_id: str
    candidates: Sequence[Candidate]
    history: Sequence[HistoryItem] = ()
    user: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    time: float = math.nan
    request_id: str = ""

    @classmethod
    def from_dict(cls, data: Any, where: str = "request") -> RerankRequest:
        """Reads decoded JSON: the keys are the arguments; `candidates` and `history` hold objects.

        Raises:
            InputError: A key is unknown or missing, or a value is of the wrong type.
        """
        values = _checked(cls, data, where, required=("user_id", "candidates"))
        for key, kind in (("candidates", Candidate), ("history", HistoryItem)):
            items = values.get(key, [])
            if not isinstance(items, list):
                raise InputError(f"{where}: {key}: expected a list, got {type(items).__name__}")
            values[key] = tuple(
                kind(**_checked(kind, item, f"{where}: {key}[{index}]", required=(ITEM_ID,)))
                for index, item in enumerate(items)
            )
        return cls(**values)

    def initial_order(self) -> list[int]:
        """Positions of the candidates that may be shown, as the initial ranker ordered them."""
        return [index for index, candidate in enumerate(self.candidates) if not candidate.blocked]


def with_attributes(
    request: RerankRequest,
    users: Mapping[str, Mapping[str, Value]],
    items: Mapping[str, Mapping[str, Value]],
) -> RerankRequest:
    """Adds attributes of users and items from tables to a request; what the request says itself wins.

    A value of None says nothing, as in a raw record.

    Args:
        request: The request.
        users: Attributes by user id.
        items: Attributes by item id, added to candidates and history alike.
    """
    return dataclasses.replace(
        request,
        user={**users.get(request.user_id, {}), **present(request.user)},
        candidates=tuple(
            dataclasses.replace(each, features={**items.get(each.item_id, {}), **present(each.features)})
            for each in request.candidates
        ),
        history=tuple(
            dataclasses.replace(each, features={**items.get(each.item_id, {}), **present(each.features)})
            for each in request.history
        ),
    )


_NUMBERS = ("time", "initial_score")
_OBJECTS = ("user", "context", "features", "feedback")
# Keys of a raw record that say nothing to a server.
_IGNORED = ("split", "feedback", "label", "position")


def _checked(cls: type, data: Any, where: str, required: Sequence[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object, got {type(data).__name__}")
    names = {field.name for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in names:
            if key in _IGNORED:
                continue
            raise InputError(f"{where}: unknown key {key!r} (known: {', '.join(sorted(names))})")
        if value is None:
            continue
        if key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where}: {key}: expected a number, got {value!r}")
        if key in _OBJECTS and not isinstance(value, dict):
            raise InputError(f"{where}: {key}: expected an object, got {value!r}")
        if key.endswith("_id") and not isinstance(value, str):
            raise InputError(f"{where}: {key}: expected a string, got {value!r}")
        values[key] = value
    for key in required:
        if not values.get(key):
            raise InputError(f"{where}: {key!r} is missing or empty")
    return values
