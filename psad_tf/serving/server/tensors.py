"""Tensors of requests and answers, checked, worded and typed as TensorFlow Serving does."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from psad_tf.serving.contract import MAX_SERIALIZED_BYTES
from psad_tf.serving.server.status import ServingError, invalid_argument

MAX_ELEMENTS = 2**22


def check_inputs(inputs: Mapping[str, tensor_pb2.TensorProto], specs: Mapping[str, tf.TensorSpec]) -> None:
    """Refuses tensors that a signature does not have, or of another type or shape, or too large.

    Args:
        inputs: Of the request, by alias.
        specs: Of the signature, by alias.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if inputs.keys() != specs.keys():
        sent, needed = set(inputs), set(specs)
        if len(sent) == len(needed):
            raise invalid_argument(
                f"input tensor alias not found in signature: {_short(min(sent - needed))}. Inputs expected "
                f"to be in the set {_braced(needed)}."
            )
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(needed)} len({_braced(sent)}) != "
            f"len({_braced(needed)}). Sent extra: {_braced(sent - needed)}. Missing but required: "
            f"{_braced(needed - sent)}."
        )
    for index, alias in enumerate(sorted(specs)):
        _check_tensor(index, alias, inputs[alias], specs[alias])


def _check_tensor(index: int, alias: str, tensor: tensor_pb2.TensorProto, spec: tf.TensorSpec) -> None:
    if tensor.dtype != spec.dtype.as_datatype_enum:
        sent = tf.dtypes.as_dtype(tensor.dtype).name if _known_type(tensor.dtype) else "an unknown type"
        raise invalid_argument(
            f"Expects arg[{index}] to be {spec.dtype.name} but {sent} is provided (input {alias!r})"
        )
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid_argument(f"tensor parsing error: {alias}")
    if spec.shape.rank is not None and not _fits(shape, spec.shape.as_list()):
        expected = ",".join("?" if size is None else str(size) for size in spec.shape.as_list())
        raise invalid_argument(
            f"input {alias!r} has shape [{','.join(map(str, shape))}], expected [{expected}]"
        )
    if math.prod(shape) > MAX_ELEMENTS:
        raise invalid_argument(f"input {alias!r} has more than {MAX_ELEMENTS} elements")
    if tensor.tensor_content and (
        spec.dtype == tf.string or len(tensor.tensor_content) != math.prod(shape) * spec.dtype.size
    ):
        raise invalid_argument(f"tensor parsing error: {alias}")
    if spec.dtype == tf.string and len(shape) == 1 and tensor.string_val:
        # Parsing pads every list to the longest: bound the product, not the sum.
        if math.prod(shape) * max(map(len, tensor.string_val)) > MAX_SERIALIZED_BYTES:
            raise invalid_argument(f"input {alias!r} is too large: send fewer lists in a request")


def check_filter(output_filter: Sequence[str], outputs: Sequence[str]) -> Sequence[str]:
    """The outputs that a request wants: those that it names, or all.

    Raises:
        ServingError: INVALID_ARGUMENT: it names one twice, or one that the signature lacks.
    """
    seen = set()
    for alias in output_filter:
        if alias not in outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {_short(alias)} Outputs expected to be in "
                f"the set {_braced(outputs)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return output_filter or outputs


def typed_proto(serialized: bytes) -> tensor_pb2.TensorProto:
    """A TensorProto with its values in the typed field, as TensorFlow Serving answers."""
    proto = tensor_pb2.TensorProto.FromString(serialized)
    if not proto.tensor_content:
        return proto
    dtype = tf.as_dtype(proto.dtype)
    field = _FIELDS.get(dtype)
    if field is None:
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"output of type {dtype.name} is not supported")
    values = np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype)
    proto.ClearField("tensor_content")
    getattr(proto, field).extend(values.tolist())
    return proto


_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
}


def _known_type(number: int) -> bool:
    try:
        tf.dtypes.as_dtype(number)
    except TypeError:
        return False
    return True


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or have == want for have, want in zip(shape, expected, strict=True)
    )


def _short(name: str) -> str:
    return name if len(name) <= 64 else name[:64] + "..."


def _braced(names: Collection[str]) -> str:
    """Names as TensorFlow Serving lists them; of a caller's names only the first few."""
    listed = [_short(name) for name in sorted(names)]
    more = [] if len(listed) <= 64 else [f"... {len(listed) - 64} more"]
    return "{" + ",".join(listed[:64] + more) + "}"
