"""One signature of a loaded SavedModel: checks a request's tensors, runs the graph, gives tensors back.

Tensors are decoded inside the graph (`ParseTensor`), outside Python's lock. With batching the decoded
tensors go through TensorFlow's own batching kernel, `BatchFunction`: requests whose tensors agree in
every dimension but the first share a queue.

A graph runs in the session of its version, as in TensorFlow Serving: in the thread of the request, without
handing the work to another thread and back, and all its memory goes when the session is closed.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import config_pb2

from psad_tf.serving.settings import Batching
from psad_tf.serving.status import ServingError, from_tensorflow, invalid_argument, safe_line

MOST_ELEMENTS = 2**22
MOST_SERIALIZED_BYTES = 2**25
_MOST_QUEUES = 64
_IN_THE_CALLERS_THREAD = -1

_queue_numbers = itertools.count()
_Graph = Callable[[np.ndarray], list[np.ndarray]]


def new_session() -> tf.compat.v1.Session:
    """A session for one model.

    Its graphs are not optimized as a whole, which would take a second for each: the function with the model,
    which is not inlined, is optimized when it first runs.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf.compat.v1.Session(graph=tf.Graph(), config=config)


class Signature:
    """A callable signature.

    Args:
        name: Its name in the SavedModel.
        function: Its concrete function, by named tensors, in the session's graph.
        definition: Its SignatureDef.
        session: The session that the model was loaded into.
        building: Held while something is added to the session's graph.
        batching: How requests are batched; None runs each alone.
    """

    def __init__(
        self,
        name: str,
        function: Any,
        definition: Any,
        session: tf.compat.v1.Session,
        building: threading.Lock,
        batching: Batching | None,
    ) -> None:
        self.name = name
        self.definition = definition
        self._function = function
        self._session = session
        self._batching = batching
        self._inputs = sorted(definition.inputs)
        self._specs = {
            alias: tf.TensorSpec(
                None if info.tensor_shape.unknown_rank else [d.size if d.size >= 0 else None for d in dims],
                tf.as_dtype(info.dtype),
            )
            for alias, info in definition.inputs.items()
            for dims in [info.tensor_shape.dim]
        }
        self._outputs = sorted(definition.outputs)
        self._single = self._build(None)
        self._queues: dict[tuple[tuple[int, ...], ...], _Graph] = {}
        self._building = building

    def run(
        self, inputs: Mapping[str, tensor_pb2.TensorProto], output_filter: Sequence[str] = ()
    ) -> dict[str, tensor_pb2.TensorProto]:
        """Answers one request.

        Args:
            inputs: Tensors by alias.
            output_filter: Aliases of the outputs wanted; empty for all.

        Returns:
            Output tensors by alias, values in the typed fields as TensorFlow Serving gives them.

        Raises:
            ServingError: The inputs do not fit the signature, or the graph failed on them.
        """
        self._check_inputs(inputs)
        wanted = self._check_filter(output_filter)
        serialized = np.array([inputs[alias].SerializeToString() for alias in self._inputs], object)
        try:
            (values,) = self._run(serialized, inputs)
        except tf.errors.OpError as error:
            raise from_tensorflow(error.error_code, error.message) from None
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes bytes of the request that are no text; only bad values do that.
            raise invalid_argument(safe_line(error.object.decode("utf-8", "replace"))) from None
        answers = dict(zip(self._outputs, values, strict=True))
        return {alias: typed_proto(answers[alias]) for alias in wanted}

    def _run(self, serialized: np.ndarray, inputs: Mapping[str, tensor_pb2.TensorProto]) -> list[np.ndarray]:
        if self._batching is None:
            return self._single(serialized)
        queue = self._queue(inputs)
        try:
            return queue(serialized)
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError):
            # One request's bad values fail a whole batch: alone, only the bad one fails.
            return self._single(serialized)

    def _queue(self, inputs: Mapping[str, tensor_pb2.TensorProto]) -> _Graph:
        """The batch queue of requests of this shape, made when first seen; a bounded number of them."""
        shapes = [tuple(d.size for d in inputs[alias].tensor_shape.dim) for alias in self._inputs]
        if not all(shapes):
            raise invalid_argument("Batching session Run() input tensors must have at least one dimension.")
        if len({shape[0] for shape in shapes}) > 1:
            raise invalid_argument("Batching session Run() input tensors must have equal 0th-dimension size.")
        assert self._batching is not None
        size, most = shapes[0][0], self._batching.max_batch_size
        if size > most and not self._batching.enable_large_batch_splitting:
            raise invalid_argument(f"Task size {size} is larger than maximum input batch size {most}")
        if size == 0:
            return self._single
        key = tuple(shape[1:] for shape in shapes)
        queue = self._queues.get(key)
        if queue is None:
            with self._building:
                queue = self._queues.get(key)
                if queue is None:
                    if len(self._queues) >= _MOST_QUEUES:
                        return self._single
                    queue = self._queues[key] = self._build(key)
        return queue

    def _build(self, key: tuple[tuple[int, ...], ...] | None) -> _Graph:
        """The graph from serialized TensorProtos to serialized TensorProtos; batched when `key` is given.

        One tensor goes in and one comes out: each tensor that TensorFlow hands to Python costs time.
        """
        specs = [self._specs[alias] for alias in self._inputs]
        if key is not None:
            specs = [tf.TensorSpec([None, *tail], spec.dtype) for spec, tail in zip(specs, key, strict=True)]

        def compute(*tensors: tf.Tensor) -> list[tf.Tensor]:
            outputs = self._function(**dict(zip(self._inputs, tensors, strict=True)))
            return [outputs[alias] for alias in self._outputs]

        with self._session.graph.as_default():
            serialized = tf.compat.v1.placeholder(tf.string, [len(specs)])
            tensors = [
                tf.ensure_shape(tf.io.parse_tensor(serialized[index], spec.dtype), spec.shape)
                for index, spec in enumerate(specs)
            ]
            inner = _function(compute, specs, {"_noinline": True})
            outputs = inner(*tensors) if key is None else self._batched(inner, specs, tensors)
            answer = tf.stack([tf.io.serialize_tensor(output) for output in outputs])
        options = config_pb2.CallableOptions(feed=[serialized.name], fetch=[answer.name])
        options.run_options.inter_op_thread_pool = _IN_THE_CALLERS_THREAD
        # The public make_callable goes through Session.run: 0.13 ms a call of an empty graph, this 0.005.
        graph: _Graph = self._session._make_callable_from_options(options)
        return graph

    def _batched(
        self, inner: Any, specs: Sequence[tf.TensorSpec], tensors: Sequence[tf.Tensor]
    ) -> Sequence[tf.Tensor]:
        """`inner` on a queue of its own; all queues of a version share its batching threads."""
        assert self._batching is not None
        batch = _function(inner, specs)
        outputs: Sequence[tf.Tensor] = tf.raw_ops.BatchFunction(
            in_tensors=tensors,
            captured_tensors=batch.captured_inputs,
            f=batch,
            Tout=[output.dtype for output in batch.outputs],
            num_batch_threads=self._batching.num_batch_threads,
            max_batch_size=self._batching.max_batch_size,
            batch_timeout_micros=self._batching.batch_timeout_micros,
            max_enqueued_batches=self._batching.max_enqueued_batches,
            allowed_batch_sizes=list(self._batching.allowed_batch_sizes),
            enable_large_batch_splitting=self._batching.enable_large_batch_splitting,
            shared_name="batching",
            batching_queue=f"{self.name}/{next(_queue_numbers)}",
        )
        return outputs

    def _check_inputs(self, inputs: Mapping[str, tensor_pb2.TensorProto]) -> None:
        if inputs.keys() != self._specs.keys():
            sent, needed = set(inputs), set(self._specs)
            if len(sent) == len(needed):
                extra = min(sent - needed)
                raise invalid_argument(
                    f"input tensor alias not found in signature: {extra}. Inputs expected to be in the set "
                    f"{_braced(needed)}."
                )
            raise invalid_argument(
                f"input size does not match signature: {len(sent)}!={len(needed)} len({_braced(sent)}) != "
                f"len({_braced(needed)}). Sent extra: {_braced(sent - needed)}. Missing but required: "
                f"{_braced(needed - sent)}."
            )
        for index, alias in enumerate(self._inputs):
            self._check_tensor(index, alias, inputs[alias])

    def _check_tensor(self, index: int, alias: str, tensor: tensor_pb2.TensorProto) -> None:
        spec = self._specs[alias]
        if tensor.dtype != spec.dtype.as_datatype_enum:
            sent = tf.dtypes.as_dtype(tensor.dtype).name if _known_type(tensor.dtype) else "an unknown type"
            raise invalid_argument(
                f"Expects arg[{index}] to be {spec.dtype.name} but {sent} is provided (input {alias!r})"
            )
        shape = [d.size for d in tensor.tensor_shape.dim]
        if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
            raise invalid_argument(f"tensor parsing error: {alias}")
        if spec.shape.rank is not None and not _fits(shape, spec.shape.as_list()):
            expected = ",".join("?" if size is None else str(size) for size in spec.shape.as_list())
            raise invalid_argument(
                f"input {alias!r} has shape [{','.join(map(str, shape))}], expected [{expected}]"
            )
        if math.prod(shape) > MOST_ELEMENTS:
            raise invalid_argument(f"input {alias!r} has more than {MOST_ELEMENTS} elements")
        if tensor.tensor_content and (
            spec.dtype == tf.string or len(tensor.tensor_content) != math.prod(shape) * spec.dtype.size
        ):
            raise invalid_argument(f"tensor parsing error: {alias}")
        if spec.dtype == tf.string and len(shape) == 1 and tensor.string_val:
            # Parsing pads every list to the longest: bound the product, not the sum.
            if len(tensor.string_val) * max(map(len, tensor.string_val)) > MOST_SERIALIZED_BYTES:
                raise invalid_argument(f"input {alias!r} is too large: send fewer lists in a request")

    def _check_filter(self, output_filter: Sequence[str]) -> Sequence[str]:
        seen = set()
        for alias in output_filter:
            if alias not in self.definition.outputs:
                raise invalid_argument(
                    f"output tensor alias not found in signature: {_short(alias)} Outputs expected to be in "
                    f"the set {_braced(self._outputs)}."
                )
            if alias in seen:
                raise invalid_argument(f"duplicate output tensor alias: {alias}")
            seen.add(alias)
        return output_filter or self._outputs


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


def _function(
    compute: Callable[..., Any], specs: Sequence[tf.TensorSpec], attributes: Mapping[str, bool] | None = None
) -> Any:
    traced = tf.function(compute, autograph=False, experimental_attributes=attributes)
    return traced.get_concrete_function(*specs)


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


def _braced(names: Sequence[str] | set[str]) -> str:
    """Names as TensorFlow Serving lists them; of a caller's names only the first few."""
    listed = [_short(name) for name in sorted(names)]
    more = [] if len(listed) <= 64 else [f"... {len(listed) - 64} more"]
    return "{" + ",".join(listed[:64] + more) + "}"
