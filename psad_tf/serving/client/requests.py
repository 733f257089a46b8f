"""From a plain Python request to tensors: the client's half of the feature contract.

Which features a model wants, and how wide they are, is read from its own signature, so the client needs
no feature declaration.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import input_pb2

from psad_tf.errors import InputError
from psad_tf.features import (
    AGE_SECONDS,
    HISTORY_PREFIX,
    INITIAL_RANK,
    INITIAL_SCORE,
    ITEM_ID,
    REQUEST_ID,
    USER_ID,
)
from psad_tf.serving.contract import BLOCKED

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
        history: The user's past interactions, in any order where they have times, else most recent first;
            those at or after the request's time are left out.
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

    Args:
        request: The request.
        users: Attributes by user id.
        items: Attributes by item id, added to candidates and history alike.
    """
    return dataclasses.replace(
        request,
        user={**users.get(request.user_id, {}), **request.user},
        candidates=tuple(
            dataclasses.replace(each, features={**items.get(each.item_id, {}), **each.features})
            for each in request.candidates
        ),
        history=tuple(
            dataclasses.replace(each, features={**items.get(each.item_id, {}), **each.features})
            for each in request.history
        ),
    )


_NUMBERS = ("time", "initial_score")
_OBJECTS = ("user", "context", "features", "feedback")
# Keys of a raw record that say nothing to a server.
_IGNORED = ("split", "feedback", "label")


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


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature that a model wants.

    Args:
        name: Its name, without the history's prefix.
        wire_name: Its name on the wire.
        width: Strings in a value; 0 for a number.
    """

    name: str
    wire_name: str
    width: int


@dataclasses.dataclass(frozen=True)
class FeatureLayout:
    """Which features a model wants, by part of the request."""

    context: tuple[Feature, ...]
    history: tuple[Feature, ...]
    candidates: tuple[Feature, ...]

    @classmethod
    def from_signature(cls, definition: Any) -> FeatureLayout:
        """Reads the inputs of `serving_default`: context [batch, ...], the others [batch, n, ...].

        Args:
            definition: The SignatureDef.

        Raises:
            InputError: It is not the signature of a reranker.
        """
        if ITEM_ID not in definition.inputs or HISTORY_PREFIX + ITEM_ID not in definition.inputs:
            raise InputError(f"the model's inputs are not a reranker's (it has no {ITEM_ID!r})")
        parts: dict[str, list[Feature]] = {"context": [], "history": [], "candidates": []}
        for wire_name in sorted(definition.inputs):
            info = definition.inputs[wire_name]
            if wire_name == INITIAL_RANK:
                continue
            text = info.dtype == types_pb2.DT_STRING
            shape = [dim.size for dim in info.tensor_shape.dim]
            part, name = "candidates", wire_name
            if len(shape) - text == 1:
                part = "context"
            elif wire_name.startswith(HISTORY_PREFIX):
                part, name = "history", wire_name.removeprefix(HISTORY_PREFIX)
            parts[part].append(Feature(name, wire_name, max(shape[-1], 1) if text else 0))
        return cls(*(tuple(parts[part]) for part in ("context", "history", "candidates")))


def serialized_list(request: RerankRequest, layout: FeatureLayout) -> bytes:
    """A request as a serialized ExampleListWithContext, the input of `rerank_examples`.

    Args:
        request: What to rerank.
        layout: From the model's signature.

    Returns:
        The record; features that the request lacks are left out, which the model takes as missing.
    """
    record = input_pb2.ExampleListWithContext()
    context = record.context.features.feature
    if request.request_id:
        context[REQUEST_ID].bytes_list.value.append(request.request_id.encode())
    for feature in layout.context:
        _add(context[feature.wire_name], feature, _context_value(request, feature.name))
    history = _ordered(request)
    for feature in layout.history:
        into = context[feature.wire_name]
        for item in history:
            _add(into, feature, _history_value(request, item, feature))
    for rank, candidate in enumerate(request.candidates):
        example = record.examples.add().features.feature
        example[INITIAL_RANK].int64_list.value.append(rank)
        if candidate.blocked:
            example[BLOCKED].int64_list.value.append(1)
        for feature in layout.candidates:
            _add(example[feature.wire_name], feature, _candidate_value(candidate, feature.name))
    return record.SerializeToString()


def _add(into: Any, feature: Feature, value: Value) -> None:
    if not feature.width:
        into.float_list.value.append(_number(value, feature))
        return
    texts = _texts(value)[: feature.width]
    into.bytes_list.value.extend(texts + [b""] * (feature.width - len(texts)))


def _number(value: Value, feature: Feature) -> float:
    if value is None:
        return math.nan
    if isinstance(value, int | float):
        return float(value)
    raise InputError(f"feature {feature.name!r}: expected a number, got {value!r}")


def _texts(value: Value) -> list[bytes]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value.encode()]
    if isinstance(value, float) and value.is_integer():
        return [str(int(value)).encode()]
    if isinstance(value, int | float):
        return [str(value).encode()]
    return [str(each).encode() for each in value]


def _context_value(request: RerankRequest, name: str) -> Value:
    if name == USER_ID:
        return request.user_id
    given = request.context.get(name)
    if given is not None:
        return given
    if name in ("request_hour", "request_weekday") and not math.isnan(request.time):
        moment = datetime.datetime.fromtimestamp(request.time, datetime.UTC)
        return str(moment.hour if name == "request_hour" else moment.weekday())
    return request.user.get(name)


def _ordered(request: RerankRequest) -> list[HistoryItem]:
    """The history before the request, most recent first."""
    if all(math.isnan(item.time) for item in request.history):
        return list(request.history)
    known = [item for item in request.history if not item.time >= request.time]
    known.sort(key=lambda item: -math.inf if math.isnan(item.time) else item.time)
    return known[::-1]


def _history_value(request: RerankRequest, item: HistoryItem, feature: Feature) -> Value:
    name = feature.name
    if name == ITEM_ID:
        return item.item_id
    if name == AGE_SECONDS:
        return request.time - item.time
    return item.features.get(name) if feature.width else item.feedback.get(name)


def _candidate_value(candidate: Candidate, name: str) -> Value:
    if name == ITEM_ID:
        return candidate.item_id
    if name == INITIAL_SCORE:
        return candidate.initial_score
    return candidate.features.get(name)
