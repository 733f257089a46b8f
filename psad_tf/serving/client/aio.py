"""The client for asyncio programs; behaves as `psad_tf.serving.client.RerankClient`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
from tensorflow_serving.apis import predict_pb2

from psad_tf.serving.client.base import BaseClient
from psad_tf.serving.client.conversation import Call
from psad_tf.serving.client.policy import CallPolicy, RerankError, deadline_exceeded
from psad_tf.serving.client.ranking import Ranking
from psad_tf.serving.client.requests import RerankRequest

_Result = TypeVar("_Result")


class AsyncRerankClient(BaseClient):
    """Asks a server for rankings; make it and use it in one event loop. Arguments as of `RerankClient`."""

    _transport = grpc.aio

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
        return await self._drive(self._conversation.rerank(requests, top, policy.fallback), policy)

    async def predict(
        self, request: predict_pb2.PredictRequest, *, policy: CallPolicy | None = None
    ) -> predict_pb2.PredictResponse:
        """Sends a ready PredictRequest; see `RerankClient.predict`."""
        policy = policy or self.policy
        return await self._send(Call("Predict", request), policy, time.monotonic() + policy.timeout)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncRerankClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _drive(self, steps: Generator[Call, Any, _Result], policy: CallPolicy) -> _Result:
        """Makes the calls that a conversation asks for, all within one deadline."""
        deadline = time.monotonic() + policy.timeout
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._send(call, policy, deadline)
                except RerankError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            result: _Result = done.value
            return result

    async def _send(self, call: Call, policy: CallPolicy, deadline: float) -> Any:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise deadline_exceeded()
        method = getattr(self._stub, call.method)
        try:
            # The deadline is kept here too: a transport that notices it late does not make the caller late.
            async with asyncio.timeout(remaining):
                return await _first_answer(
                    lambda: method(call.message, timeout=max(deadline - time.monotonic(), 0.0)),
                    policy.hedge_after,
                )
        except TimeoutError:
            raise deadline_exceeded() from None
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
