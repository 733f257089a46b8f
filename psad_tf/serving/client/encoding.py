"""From a plain Python request to the record that a model reads: by the encoder that made the training lists.

Which features a model wants, and how wide they are, is read from its own signature, so the client needs no
feature declaration. Values, clock, history order and ties are `psad_tf.data.encode_record`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import input_pb2

from psad_tf.data.encode_record import ListValues, RecordEncoder
from psad_tf.errors import InputError
from psad_tf.features import (
    AGE_SECONDS,
    HISTORY_PREFIX,
    INITIAL_RANK,
    ITEM_ID,
    REQUEST_ID,
    REQUEST_TIME,
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
    HistoryDeclaration,
)
from psad_tf.serving.client.requests import HistoryItem, RerankRequest, Value
from psad_tf.serving.contract import BLOCKED, MISSING_NUMBER, MISSING_TEXT

_CLOCK = ("request_hour", "request_weekday")
_LATE = 2**40  # stands for the time of a request that has none


def declaration_from_signature(definition: Any) -> FeatureDeclaration:
    """The features that a model wants, from its `serving_default`: names, parts and widths.

    Args:
        definition: The SignatureDef. Context inputs are [batch, ...], the others [batch, n, ...].

    Raises:
        InputError: It is not the signature of a reranker.
    """
    if ITEM_ID not in definition.inputs or HISTORY_PREFIX + ITEM_ID not in definition.inputs:
        raise InputError(f"the model's inputs are not a reranker's (it has no {ITEM_ID!r})")
    categorical: dict[str, list[CategoricalFeature]] = {"context": [], "history": [], "candidate": []}
    dense: dict[str, list[DenseFeature]] = {"context": [], "history": [], "candidate": []}
    for wire_name in sorted(definition.inputs, key=lambda name: (not name.endswith(ITEM_ID), name)):
        if wire_name == INITIAL_RANK:
            continue
        info = definition.inputs[wire_name]
        text = info.dtype == types_pb2.DT_STRING
        shape = [dim.size for dim in info.tensor_shape.dim]
        part, name = "candidate", wire_name
        if len(shape) - text == 1:
            part = "context"
        elif wire_name.startswith(HISTORY_PREFIX):
            part, name = "history", wire_name.removeprefix(HISTORY_PREFIX)
        if text:
            categorical[part].append(CategoricalFeature(name, width=max(shape[-1], 1)))
        else:
            dense[part].append(DenseFeature(name))
    return FeatureDeclaration(
        context_categorical=tuple(categorical["context"]),
        context_dense=tuple(dense["context"]),
        history=HistoryDeclaration(categorical=tuple(categorical["history"]), dense=tuple(dense["history"])),
        candidate_categorical=tuple(categorical["candidate"]),
        candidate_dense=tuple(dense["candidate"]),
    )


def serialized_list(request: RerankRequest, declaration: FeatureDeclaration) -> bytes:
    """A request as a serialized ExampleListWithContext, the input of `rerank_examples`.

    Args:
        request: What to rerank.
        declaration: From the model's signature.

    Raises:
        InputError: A value does not fit its feature, or only some interactions of the history have times.
    """
    _check_numbers(request, declaration)
    try:
        values = _values(request, declaration)
    except UnicodeEncodeError:
        raise InputError(f"request {request.request_id!r}: a text is not valid Unicode") from None
    return _record(request, declaration, values).SerializeToString()


def _values(request: RerankRequest, declaration: FeatureDeclaration) -> ListValues:
    attributes = {item.item_id: _plain(item.features) for item in request.history}
    encoder = RecordEncoder(declaration, attributes.get)
    known = not math.isnan(request.time)
    time = int(request.time) if known else _LATE
    context, user = _plain(request.context), _plain(request.user)
    if not known:
        context = {name: user.get(name, MISSING_TEXT) for name in _CLOCK} | context
    data = {
        "request_id": request.request_id,
        "user_id": request.user_id,
        "time": time,
        "context": context,
        "candidates": [
            {
                "item_id": each.item_id,
                "initial_score": each.initial_score,
                "features": _plain(each.features),
            }
            for each in request.candidates
        ],
    }
    times, timed = _times(request.history, time)
    interactions = [
        encoder.interaction(moment, item.item_id, item.feedback)
        for moment, item in zip(times, request.history, strict=True)
    ]
    values = encoder.encode(data, user, encoder.history(interactions, time, len(interactions)))
    names = [feature.name for feature in declaration.history.dense]
    if AGE_SECONDS in names and not (known and timed):
        ages = values.history_dense[names.index(AGE_SECONDS)]
        ages[:] = [MISSING_NUMBER] * len(ages)
    return values


def _times(history: Sequence[HistoryItem], time: int) -> tuple[list[int], bool]:
    """When each interaction was, in seconds, and whether that is known; else they stand newest first."""
    untimed = sum(math.isnan(item.time) for item in history)
    if untimed == len(history):
        return [time - 1 - index for index in range(len(history))], False
    if untimed:
        raise InputError(f"history: {untimed} of {len(history)} interactions have no time; give all or none")
    return [max(int(item.time), 0) for item in history], True


def _plain(values: Mapping[str, Value]) -> dict[str, Any]:
    """Values as they come from JSON: sequences of strings are lists."""
    return {
        name: value if value is None or isinstance(value, str | int | float) else list(value)
        for name, value in values.items()
    }


def _check_numbers(request: RerankRequest, declaration: FeatureDeclaration) -> None:
    """Refuses text where the model wants a number, by the feature's name."""
    context = [feature.name for feature in declaration.context_dense]
    candidate = [feature.name for feature in declaration.candidate_dense]
    history = [feature.name for feature in declaration.history.dense]
    for names, given in (
        (context, [request.context, request.user]),
        (candidate, [each.features for each in request.candidates]),
        (history, [each.feedback for each in request.history]),
    ):
        for values in given:
            for name in names:
                value = values.get(name)
                if value is not None and not isinstance(value, int | float):
                    raise InputError(f"feature {name!r}: expected a number, got {value!r}")


def _record(
    request: RerankRequest, declaration: FeatureDeclaration, values: ListValues
) -> input_pb2.ExampleListWithContext:
    record = input_pb2.ExampleListWithContext()
    context = record.context.features.feature
    context[REQUEST_ID].bytes_list.value.append(values.request_id.encode())
    if values.time != _LATE:
        context[REQUEST_TIME].int64_list.value.append(values.time)
    for feature, texts in zip(declaration.context_categorical, values.context_categorical, strict=True):
        context[feature.name].bytes_list.value.extend(texts)
    for dense, number in zip(declaration.context_dense, values.context_dense, strict=True):
        context[dense.name].float_list.value.append(number)
    for index, feature in enumerate(declaration.history.categorical):
        column = context[HISTORY_PREFIX + feature.name].bytes_list.value
        for item in values.history_categorical:
            column.extend(item[index])
    for dense, numbers in zip(declaration.history.dense, values.history_dense, strict=True):
        context[HISTORY_PREFIX + dense.name].float_list.value.extend(numbers)
    for rank, (candidate, texts_of, numbers_of) in enumerate(
        zip(request.candidates, values.categorical, values.dense, strict=True)
    ):
        example = record.examples.add().features.feature
        example[INITIAL_RANK].int64_list.value.append(rank)
        if candidate.blocked:
            example[BLOCKED].int64_list.value.append(1)
        for feature, texts in zip(declaration.candidate_categorical, texts_of, strict=True):
            example[feature.name].bytes_list.value.extend(texts)
        for dense, number in zip(declaration.candidate_dense, numbers_of, strict=True):
            example[dense.name].float_list.value.append(number)
    return record
