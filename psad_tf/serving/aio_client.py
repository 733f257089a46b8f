"""The client for asyncio programs; behaves as `psad_tf.serving.client.RerankClient`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
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


class AsyncRerankClient:
    """Asks a server for rankings; make it and use it in one event loop.

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
            grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
            if tls is None
            else grpc.aio.secure_channel(address, tls.credentials(), CHANNEL_OPTIONS)
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._layout: FeatureLayout | None = None
        self._layout_version: int | None = None

    async def rerank(
        self, request: RerankRequest, *, top: int | None = None, policy: CallPolicy | None = None
    ) -> Ranking:
        """Ranks one list; see `RerankClient.rerank`."""
        return (await self.rerank_many([request], top=top, policy=policy))[0]

    async def rerank_many(
        self, requests: Sequence[RerankRequest], *, top: int | None = None, policy: CallPolicy | None = None
    ) -> list[Ranking]:
        """Ranks several lists in one call."""
        if not requests:
            return []
        policy = policy or self.policy
        deadline = time.monotonic() + policy.timeout
        try:
            layout = self._layout or await self._fetch_layout(policy, deadline)
            message = examples_request(self.model, [serialized_list(each, layout) for each in requests])
            response = await self._call(self._stub.Predict, message, policy, deadline)
            rankings = [
                ranking_from_outputs(request, response, top, row) for row, request in enumerate(requests)
            ]
        except RerankError as error:
            if not policy.fallback:
                raise
            _log.warning("the initial order is returned: %s", error)
            return [initial_ranking(request, top, str(error)) for request in requests]
        if self._layout_version != rankings[0].version:
            self._layout = None
            self._layout_version = rankings[0].version
        return rankings

    async def predict(
        self, request: predict_pb2.PredictRequest, *, policy: CallPolicy | None = None
    ) -> predict_pb2.PredictResponse:
        """Sends a ready PredictRequest; see `RerankClient.predict`."""
        policy = policy or self.policy
        return await self._call(self._stub.Predict, request, policy, time.monotonic() + policy.timeout)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncRerankClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _fetch_layout(self, policy: CallPolicy, deadline: float) -> FeatureLayout:
        response = await self._call(
            self._stub.GetModelMetadata, metadata_request(self.model), policy, deadline
        )
        layout = layout_from_metadata(response)
        self._layout, self._layout_version = layout, response.model_spec.version.value or None
        return layout

    async def _call(self, method: Any, message: Any, policy: CallPolicy, deadline: float) -> Any:
        delays = policy.delays()
        while True:
            try:
                return await _attempt(method, message, policy, deadline)
            except RerankError as error:
                delay = next(delays, None)
                if error.code != grpc.StatusCode.UNAVAILABLE or delay is None:
                    raise
                if time.monotonic() + delay >= deadline:
                    raise
                await asyncio.sleep(delay)


async def _attempt(method: Any, message: Any, policy: CallPolicy, deadline: float) -> Any:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise RerankError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
    try:
        # The deadline is kept here too: a transport that notices it late does not make the caller late.
        async with asyncio.timeout(remaining):
            return await _first_answer(
                lambda: method(message, timeout=max(deadline - time.monotonic(), 0.0)), policy.hedge_after
            )
    except TimeoutError:
        raise RerankError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
    except grpc.aio.AioRpcError as error:
        raise RerankError(error.code(), error.details() or "") from None


async def _first_answer(start: Callable[[], Any], hedge_after: float | None) -> Any:
    """The first good answer of one call and, if that is slow, a second one like it."""

    async def call() -> Any:
        return await start()

    pending = {asyncio.ensure_future(call())}
    try:
        done, _ = await asyncio.wait(pending, timeout=hedge_after)
        if not done:
            pending.add(asyncio.ensure_future(call()))
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            good = [task for task in done if task.exception() is None]
            if good or not pending:
                return (good or list(done))[0].result()
    finally:
        for task in pending:
            task.cancel()
