"""The client: a plain Python request in, ranked items out, whatever happens to the server.

    from psad_tf.serving.client import RerankClient
    from psad_tf.serving.requests import Candidate, RerankRequest

    with RerankClient("127.0.0.1:8500") as client:
        ranking = client.rerank(RerankRequest("user-7", [Candidate("a"), Candidate("b")]))

Works the same against TensorFlow Serving and the embedded server.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from psad_tf.serving.connection import (
    CHANNEL_OPTIONS,
    ModelChoice,
    Tls,
    examples_request,
    layout_from_metadata,
    metadata_request,
)
from psad_tf.serving.policy import (
    CallPolicy,
    Ranking,
    RerankError,
    initial_ranking,
    ranking_from_outputs,
)
from psad_tf.serving.requests import FeatureLayout, RerankRequest, serialized_list

_log = logging.getLogger(__name__)
_DEFAULT_POLICY = CallPolicy()
_DEFAULT_MODEL = ModelChoice()


class RerankClient:
    """Asks a server for rankings; one channel, safe to use from several threads.

    Args:
        address: host:port of the server's gRPC API.
        model: Which model and version.
        policy: Deadline, retries, hedging, fallback; a call may bring its own.
        tls: Certificates; None connects in plain text.
    """

    def __init__(
        self,
        address: str,
        *,
        model: ModelChoice = _DEFAULT_MODEL,
        policy: CallPolicy = _DEFAULT_POLICY,
        tls: Tls | None = None,
    ) -> None:
        self.model = model
        self.policy = policy
        self._channel = (
            grpc.insecure_channel(address, CHANNEL_OPTIONS)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), CHANNEL_OPTIONS)
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._layout: FeatureLayout | None = None
        self._layout_version: int | None = None

    def rerank(
        self, request: RerankRequest, *, top: int | None = None, policy: CallPolicy | None = None
    ) -> Ranking:
        """Ranks one list.

        Args:
            request: User, history, candidates.
            top: Length of the ranking; None for all.
            policy: For this call.

        Returns:
            The model's ranking, or in time the initial order where the policy allows it.

        Raises:
            RerankError: There is no answer, and the policy does not fall back.
            InputError: The request's values do not fit the model's features.
        """
        return self.rerank_many([request], top=top, policy=policy)[0]

    def rerank_many(
        self, requests: Sequence[RerankRequest], *, top: int | None = None, policy: CallPolicy | None = None
    ) -> list[Ranking]:
        """Ranks several lists in one call; see `rerank`."""
        if not requests:
            return []
        policy = policy or self.policy
        deadline = time.monotonic() + policy.timeout
        try:
            layout = self._layout or self._fetch_layout(policy, deadline)
            message = examples_request(self.model, [serialized_list(each, layout) for each in requests])
            response = self._call(self._stub.Predict, message, policy, deadline)
            rankings = [
                ranking_from_outputs(request, response, top, row) for row, request in enumerate(requests)
            ]
        except RerankError as error:
            if not policy.fallback:
                raise
            _log.warning("the initial order is returned: %s", error)
            return [initial_ranking(request, top, str(error)) for request in requests]
        if self._layout_version != rankings[0].version:
            self._layout = None  # another version may want other features: ask again next time
            self._layout_version = rankings[0].version
        return rankings

    def predict(
        self, request: predict_pb2.PredictRequest, *, policy: CallPolicy | None = None
    ) -> predict_pb2.PredictResponse:
        """Sends a ready PredictRequest, with the policy's deadline, retries and hedging.

        Raises:
            RerankError: There is no answer.
        """
        policy = policy or self.policy
        return self._call(self._stub.Predict, request, policy, time.monotonic() + policy.timeout)

    def predict_examples(
        self, serialized: Sequence[bytes], *, policy: CallPolicy | None = None
    ) -> predict_pb2.PredictResponse:
        """Sends serialized ExampleListWithContext protos to `rerank_examples`.

        Raises:
            RerankError: There is no answer.
        """
        return self.predict(examples_request(self.model, list(serialized)), policy=policy)

    def connect(self, timeout: float = 10.0) -> FeatureLayout:
        """Waits until the server is there and reads which features its model wants.

        Raises:
            RerankError: It is not there in time, or serves no reranker under this name.
        """
        deadline = time.monotonic() + timeout
        try:
            grpc.channel_ready_future(self._channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise RerankError(grpc.StatusCode.UNAVAILABLE, f"no server within {timeout:g} s") from None
        return self._fetch_layout(CallPolicy(timeout=timeout, fallback=False), deadline)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> RerankClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fetch_layout(self, policy: CallPolicy, deadline: float) -> FeatureLayout:
        response = self._call(self._stub.GetModelMetadata, metadata_request(self.model), policy, deadline)
        layout = layout_from_metadata(response)
        self._layout, self._layout_version = layout, response.model_spec.version.value or None
        return layout

    def _call(self, method: Any, message: Any, policy: CallPolicy, deadline: float) -> Any:
        """One call with retries: UNAVAILABLE is tried again until the deadline."""
        delays = policy.delays()
        while True:
            try:
                return self._attempt(method, message, policy, deadline)
            except RerankError as error:
                delay = next(delays, None)
                if error.code != grpc.StatusCode.UNAVAILABLE or delay is None:
                    raise
                if time.monotonic() + delay >= deadline:
                    raise
                threading.Event().wait(delay)

    def _attempt(self, method: Any, message: Any, policy: CallPolicy, deadline: float) -> Any:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise RerankError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        return first_answer(
            lambda: method.future(message, timeout=max(deadline - time.monotonic(), 0.0)),
            policy.hedge_after,
            deadline,
        )


def first_answer(start: Callable[[], Any], hedge_after: float | None, deadline: float) -> Any:
    """The first good answer of one call and, if that is slow, a second one like it.

    The deadline is kept here too: a transport that notices it late does not make the caller late.

    Args:
        start: Starts a call and gives its gRPC future.
        hedge_after: Seconds after which the second call starts; None for never.
        deadline: Of `time.monotonic`.

    Raises:
        RerankError: No call had a good answer in time.
    """
    finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
    calls = []

    def launch() -> None:
        call = start()
        calls.append(call)
        call.add_done_callback(finished.put)

    launch()
    error: RerankError | None = None
    failed = 0
    try:
        while True:
            remaining = max(deadline - time.monotonic(), 0.0)
            may_hedge = len(calls) == 1 and error is None
            wait = remaining if hedge_after is None or not may_hedge else min(hedge_after, remaining)
            try:
                call = finished.get(timeout=wait)
            except queue.Empty:
                if time.monotonic() >= deadline or wait == remaining:
                    raise RerankError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
                launch()
                continue
            try:
                return call.result()
            except grpc.RpcError as failure:
                error = _rerank_error(failure)
            failed += 1
            if failed == len(calls):
                raise error
    finally:
        for call in calls:
            with contextlib.suppress(Exception):
                call.cancel()


def _rerank_error(error: Any) -> RerankError:
    return RerankError(error.code(), error.details() or "")
