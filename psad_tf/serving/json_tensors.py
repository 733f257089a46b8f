"""Tensors in and out of JSON, as in TensorFlow Serving's REST API.

Requests: `{"signature_name": ..., "instances": [...]}` (row format, one entry a list) or
`{"inputs": {...}}` (columnar). Answers: `{"predictions": [...]}` or `{"outputs": {...}}`. Bytes are
`{"b64": "..."}`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from psad_tf.serving.status import invalid_argument

ROW, COLUMNAR = "row", "columnar"


def parse_body(body: bytes) -> dict[str, Any]:
    """Decodes a request's JSON object.

    Raises:
        ServingError: INVALID_ARGUMENT with the place of the error.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        place = f" at offset: {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise invalid_argument(f"JSON Parse error: Invalid value.{place}") from None
    if not isinstance(data, dict):
        raise invalid_argument(f"JSON Value: {_shown(data)} Is not object")
    if not isinstance(data.get("signature_name", ""), str):
        raise invalid_argument(
            f"JSON Value: {_shown(data)} not formatted correctly. 'signature_name' key must be a string "
            "value."
        )
    return data


def tensors_from_json(
    data: Mapping[str, Any], definition: Any
) -> tuple[dict[str, tensor_pb2.TensorProto], str]:
    """Reads the tensors of a request.

    Args:
        data: From `parse_body`.
        definition: The signature's SignatureDef.

    Returns:
        Tensors by alias, and the format, `ROW` or `COLUMNAR`, in which to answer.
    """
    inputs = definition.inputs
    if "instances" in data and "inputs" in data:
        raise invalid_argument(
            f"JSON Value: {_shown(data)} Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist"
        )
    if "instances" in data:
        columns = _columns(data["instances"], sorted(inputs), data)
        return {name: _tensor(columns[name], inputs[name].dtype, name) for name in columns}, ROW
    if "inputs" not in data:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    values = data["inputs"]
    if not isinstance(values, dict) or _is_base64(values):
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as "
                "per tensorinfo_map"
            )
        values = {name: values for name in inputs}
    for name in sorted(inputs):
        if name not in values:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(values[name], inputs[name].dtype, name) for name in inputs}, COLUMNAR


def _columns(instances: Any, names: list[str], data: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(instances, list):
        raise invalid_argument(f"JSON Value: {_shown(data)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument(f"JSON Value: {_shown(data)} No values in 'instances' array")
    objects = isinstance(instances[0], dict) and not _is_base64(instances[0])
    if not objects and len(names) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for index, instance in enumerate(instances):
        if objects != (isinstance(instance, dict) and not _is_base64(instance)):
            kinds = ("object", "list") if objects else ("value/list", "object")
            raise invalid_argument(f"Expecting {kinds[0]} but got {kinds[1]} at item {index} of input list")
        row = instance if objects else {names[0]: instance}
        if row.keys() != columns.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_shown(row)} keys "
                f"must be equal to: {','.join(names)}"
            )
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _tensor(value: Any, dtype_number: int, name: str) -> tensor_pb2.TensorProto:
    dtype = tf.as_dtype(dtype_number)
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if not level:
            break
        level = level[0]
    flat: list[Any] = []
    _flatten(value, shape, 0, flat)
    tensor = tensor_pb2.TensorProto(dtype=dtype_number)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == tf.string:
        tensor.string_val.extend(_bytes(each) for each in flat)
    elif dtype == tf.bool:
        tensor.bool_val.extend(_typed(each, bool, dtype) for each in flat)
    elif dtype.is_floating:
        numbers = [_number(each, dtype) for each in flat]
        tensor.tensor_content = np.asarray(numbers, dtype.as_numpy_dtype).tobytes()
    elif dtype.is_integer:
        integers = [_typed(each, int, dtype) for each in flat]
        try:
            tensor.tensor_content = np.array(integers, dtype.as_numpy_dtype).tobytes()
        except OverflowError:
            raise invalid_argument(f"input {name!r}: a number does not fit {dtype.name}") from None
    else:
        raise invalid_argument(f"input {name!r}: type {dtype.name} cannot be sent as JSON")
    return tensor


def _flatten(value: Any, shape: list[int], level: int, into: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        into.append(value)
        return
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    if level == len(shape) - 1 and not any(isinstance(each, list) for each in value):
        into.extend(value)
        return
    for each in value:
        _flatten(each, shape, level + 1, into)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid_argument("JSON Value: a string is not UTF-8") from None
    if isinstance(value, dict):
        if not _is_base64(value):
            raise invalid_argument(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise invalid_argument("Unable to base64 decode") from None
    raise _wrong_type(value, tf.string)


def _number(value: Any, dtype: tf.DType) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(value, dtype)
    try:
        number = float(value)
    except OverflowError:
        raise _wrong_type(value, dtype) from None
    if math.isfinite(number) and abs(number) > float(dtype.max):
        raise invalid_argument(
            f"Cannot convert JSON value: {_shown(value)} to {dtype.name} without loss of precision."
        )
    return number


def _typed(value: Any, kind: type, dtype: tf.DType) -> Any:
    if type(value) is not kind:
        raise _wrong_type(value, dtype)
    return value


def _wrong_type(value: Any, dtype: tf.DType) -> Exception:
    names = {str: "String", bool: "Boolean", int: "Number", float: "Number", list: "Array", dict: "Object"}
    kind = names.get(type(value), "Null")
    return invalid_argument(f"JSON Value: {_shown(value)} Type: {kind} is not of expected type: {dtype.name}")


def _shown(value: Any) -> str:
    """A value as JSON, cut short."""
    if isinstance(value, dict | list) and len(value) > 8:
        return "{...}" if isinstance(value, dict) else "[...]"
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return "..."
    return text if len(text) <= 120 else text[:120] + "..."


def json_from_tensors(outputs: Mapping[str, tensor_pb2.TensorProto], form: str) -> dict[str, Any]:
    """The answer's JSON object in the format of the request.

    Raises:
        ServingError: The row format is asked for and the outputs differ in their first dimension.
    """
    values = {name: _values(name, tensor) for name, tensor in outputs.items()}
    if form == COLUMNAR:
        return {"outputs": next(iter(values.values())) if len(values) == 1 else values}
    lengths = {len(value) if isinstance(value, list) else -1 for value in values.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise invalid_argument(
            "Tensors have inconsistent batch size: the row format needs one entry a list in every output"
        )
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return {"predictions": rows}


def _values(name: str, tensor: tensor_pb2.TensorProto) -> Any:
    array = tf.make_ndarray(tensor)
    if array.dtype == object:
        convert = _base64_object if name.endswith("_bytes") else _text
        return _mapped(array.tolist(), convert)
    if array.dtype == np.float32:
        # The shortest decimal that reads back as the same float32.
        return _mapped(array.tolist(), lambda value: float(str(np.float32(value))))
    return array.tolist()


def _mapped(value: Any, convert: Any) -> Any:
    return [_mapped(each, convert) for each in value] if isinstance(value, list) else convert(value)


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _base64_object(value)


def _base64_object(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}
