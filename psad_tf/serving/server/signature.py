"""One signature of a loaded SavedModel: checks a request's tensors, runs the graph, gives tensors back.

Tensors are decoded inside the graph (`ParseTensor`), outside Python's lock. With batching the decoded
tensors go through TensorFlow's own batching kernel, `BatchFunction`. A reranker's lists are padded to one of
a few sizes; only lists of one size share a batch, so none pays for a much longer one, and an answer is cut
back to the request's own longest list.

A graph runs in the session of its version, as in TensorFlow Serving: in the thread of the request, without
handing the work to another thread and back, and all its memory goes when the session is closed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from psad_tf.serving.contract import Limits
from psad_tf.serving.server.compat import session_callable
from psad_tf.serving.server.lists import ListInputs
from psad_tf.serving.server.settings import Batching
from psad_tf.serving.server.status import from_tensorflow, invalid_argument, safe_reason
from psad_tf.serving.server.tensors import check_filter, check_inputs, typed_proto

_queue_numbers = itertools.count()
_Graph = Callable[..., list[np.ndarray]]


class Signature:
    """A callable signature.

    Args:
        name: Its name in the SavedModel.
        definition: Its SignatureDef.
        session: The session that the model was loaded into.
        limits: Of the model, where it is a reranker.
        batching: How requests are batched; None runs each alone. Only a reranker's are.
    """

    def __init__(
        self,
        name: str,
        definition: Any,
        session: tf.compat.v1.Session,
        limits: Limits | None,
        batching: Batching | None,
    ) -> None:
        self.name = name
        self.definition = definition
        self._session = session
        self._batching = batching
        self._inputs = sorted(definition.inputs)
        self._outputs = sorted(definition.outputs)
        self._specs = {alias: _spec(definition.inputs[alias]) for alias in self._inputs}
        self._lists = ListInputs.of(self._specs, limits)
        self._alone = self._graph(None)
        self._queues: dict[int, _Graph] = {}
        if batching is not None and self._lists is not None:
            self._queues = {size: self._graph(size) for size in self._lists.limits.list_sizes}

    def run(
        self,
        inputs: Mapping[str, tensor_pb2.TensorProto],
        output_filter: Sequence[str] = (),
        check_wanted: Callable[[], None] = lambda: None,
    ) -> dict[str, tensor_pb2.TensorProto]:
        """Answers one request.

        Args:
            inputs: Tensors by alias.
            output_filter: Aliases of the outputs wanted; empty for all.
            check_wanted: Called before each piece of work; raises when the caller has gone or is late.

        Returns:
            Output tensors by alias, values in the typed fields as TensorFlow Serving gives them.

        Raises:
            ServingError: The inputs do not fit the signature, or the graph failed on them.
        """
        check_inputs(inputs, self._specs)
        wanted = check_filter(output_filter, self._outputs)
        queue, length = self._queue(inputs)
        serialized = np.array([inputs[alias].SerializeToString() for alias in self._inputs], object)
        check_wanted()
        try:
            try:
                (values,) = self._alone(serialized) if queue is None else queue(serialized, np.int32(length))
            except (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError):
                if queue is None:
                    raise
                # One request's bad values fail a whole batch: alone, only the bad one fails.
                check_wanted()
                (values,) = self._alone(serialized)
        except tf.errors.OpError as error:
            raise from_tensorflow(error.error_code, error.message) from None
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes bytes of the request that are no text; only bad values do that.
            raise invalid_argument(safe_reason(error.object.decode("utf-8", "replace"))) from None
        answers = dict(zip(self._outputs, values, strict=True))
        return {alias: typed_proto(answers[alias]) for alias in wanted}

    def warm_up(self, inputs: Mapping[str, tensor_pb2.TensorProto]) -> None:
        """Runs a request as `run` does, alone and through every batch queue that it fits.

        Raises:
            ServingError: As `run`.
        """
        self.run(inputs)
        if not self._queues or self._lists is None:
            return
        extent = self._lists.extent(inputs)
        serialized = np.array([inputs[alias].SerializeToString() for alias in self._inputs], object)
        assert self._batching is not None
        if 0 < extent.lists <= self._batching.max_batch_size:
            for size, queue in self._queues.items():
                if size >= extent.candidates:
                    queue(serialized, np.int32(max(extent.candidates, 1)))

    def _queue(self, inputs: Mapping[str, tensor_pb2.TensorProto]) -> tuple[_Graph | None, int]:
        """The batch queue for a request, and the length of its longest list; None runs it alone."""
        if self._lists is None:
            return None, 0
        extent = self._lists.extent(inputs)
        if self._batching is None or extent.lists == 0:
            return None, extent.candidates
        if extent.lists > self._batching.max_batch_size:
            raise invalid_argument(
                f"Task size {extent.lists} is larger than maximum input batch size "
                f"{self._batching.max_batch_size}"
            )
        size = self._lists.size_for(extent)  # the graph refuses a list that is too long
        return None if size is None else self._queues[size], max(extent.candidates, 1)

    def _graph(self, size: int | None) -> _Graph:
        """The graph from serialized TensorProtos to serialized TensorProtos; batched when padded to `size`.

        One tensor goes in and one comes out: each tensor that TensorFlow hands to Python costs time.
        """
        aliases = {self.definition.inputs[alias].name: alias for alias in self._inputs}
        with self._session.graph.as_default() as graph:
            places = {
                alias: graph.get_tensor_by_name(self.definition.outputs[alias].name)
                for alias in self._outputs
            }
            call = next(iter(places.values())).op  # what the SavedModel calls with the signature's inputs
            serialized = tf.compat.v1.placeholder(tf.string, [len(self._inputs)])
            parsed = {
                alias: tf.ensure_shape(tf.io.parse_tensor(serialized[index], spec.dtype), spec.shape)
                for index, (alias, spec) in enumerate(self._specs.items())
            }
            captured = [each for each in call.inputs if each.name not in aliases]
            order = [aliases[each.name] for each in call.inputs if each.name in aliases]
            function, types = call.get_attr("f").name, [each.dtype for each in call.outputs]
            if size is None:
                results = tf.raw_ops.StatefulPartitionedCall(
                    args=[parsed[alias] for alias in order] + captured, Tout=types, f=function
                )
                feeds = [serialized]
            else:
                assert self._lists is not None
                padded = self._lists.padded(parsed, size)
                results = self._batched([padded[alias] for alias in order], captured, types, function)
                length = tf.compat.v1.placeholder(tf.int32, [])
                feeds = [serialized, length]
                results = [
                    each[:, :length] if like.shape.rank and like.shape.rank > 1 else each
                    for each, like in zip(results, call.outputs, strict=True)
                ]
            answer = tf.stack(
                [tf.io.serialize_tensor(results[places[alias].value_index]) for alias in self._outputs]
            )
        return session_callable(self._session, feeds, [answer])

    def _batched(
        self, tensors: list[tf.Tensor], captured: list[tf.Tensor], types: list[tf.DType], function: str
    ) -> list[tf.Tensor]:
        """The function on a queue of its own; all queues of a version share its batching threads."""
        assert self._batching is not None
        outputs: list[tf.Tensor] = tf.raw_ops.BatchFunction(
            in_tensors=tensors,
            captured_tensors=captured,
            f=function,
            Tout=types,
            num_batch_threads=self._batching.num_batch_threads,
            max_batch_size=self._batching.max_batch_size,
            batch_timeout_micros=self._batching.batch_timeout_micros,
            max_enqueued_batches=self._batching.max_enqueued_batches,
            shared_name="batching",
            batching_queue=f"{self.name}/{next(_queue_numbers)}",
        )
        return outputs


def _spec(info: Any) -> tf.TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else [dim.size if dim.size >= 0 else None for dim in shape.dim]
    return tf.TensorSpec(sizes, tf.as_dtype(info.dtype))
