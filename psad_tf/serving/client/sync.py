"""The client for threads."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import predict_pb2

from psad_tf.features import FeatureDeclaration
from psad_tf.serving.client.base import BaseClient
from psad_tf.serving.client.conversation import Call, examples_request
from psad_tf.serving.client.policy import CallPolicy, RerankError, deadline_exceeded
from psad_tf.serving.client.ranking import Ranking
from psad_tf.serving.client.requests import RerankRequest

_Result = TypeVar("_Result")


class RerankClient(BaseClient):
    """Asks a server for rankings; one channel, safe to use from several threads.

    Args:
        address: host:port of the server's gRPC API.
        model: Which model and version.
        policy: Deadline, hedging, fallback; a call may bring its own.
        tls: Certificates; None connects in plain text.
        max_attempts: Attempts of one call, 1 to 5, while the server is UNAVAILABLE.
    """

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
            RerankError: There is no usable answer, and the policy does not fall back.
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
        return self._drive(self._conversation.rerank(requests, top, policy.fallback), policy)

    def predict(
        self, request: predict_pb2.PredictRequest, *, policy: CallPolicy | None = None
    ) -> predict_pb2.PredictResponse:
        """Sends a ready PredictRequest, with the policy's deadline and hedging.

        Raises:
            RerankError: There is no answer.
        """
        policy = policy or self.policy
        return self._send(Call("Predict", request), policy, time.monotonic() + policy.timeout)

    def predict_examples(
        self, serialized: Sequence[bytes], *, policy: CallPolicy | None = None
    ) -> predict_pb2.PredictResponse:
        """Sends serialized ExampleListWithContext protos to `rerank_examples`.

        Raises:
            RerankError: There is no answer.
        """
        return self.predict(examples_request(self.model, serialized), policy=policy)

    def connect(self, timeout: float = 10.0) -> FeatureDeclaration:
        """Waits until the server is there and reads which features its model wants.

        Raises:
            RerankError: It is not there in time, or serves no reranker under this name.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise RerankError(grpc.StatusCode.UNAVAILABLE, f"no server within {timeout:g} s") from None
        return self._drive(self._conversation.features(), CallPolicy(timeout=timeout))

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> RerankClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, steps: Generator[Call, Any, _Result], policy: CallPolicy) -> _Result:
        """Makes the calls that a conversation asks for, all within one deadline."""
        deadline = time.monotonic() + policy.timeout
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._send(call, policy, deadline)
                except RerankError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: _Result = done.value
            return result

    def _send(self, call: Call, policy: CallPolicy, deadline: float) -> Any:
        method = getattr(self._stub, call.method)
        return first_answer(
            lambda: method.future(call.message, timeout=max(deadline - time.monotonic(), 0.0)),
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
    calls: list[Any] = []

    def launch() -> None:
        call = start()
        calls.append(call)
        call.add_done_callback(finished.put)

    if time.monotonic() >= deadline:
        raise deadline_exceeded()
    launch()
    error: RerankError | None = None
    failed = 0
    try:
        while True:
            remaining = max(deadline - time.monotonic(), 0.0)
            may_hedge = hedge_after is not None and len(calls) == 1 and error is None
            wait = min(hedge_after, remaining) if may_hedge else remaining  # type: ignore[type-var]
            try:
                call = finished.get(timeout=wait)
            except queue.Empty:
                if wait == remaining or time.monotonic() >= deadline:
                    raise deadline_exceeded() from None
                launch()
                continue
            try:
                return call.result()
            except grpc.RpcError as failure:
                error = RerankError(failure.code(), failure.details() or "")
            failed += 1
            if failed == len(calls):
                raise error
    finally:
        for call in calls:
            with contextlib.suppress(Exception):
                call.cancel()
