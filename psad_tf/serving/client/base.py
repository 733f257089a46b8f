"""What the client for threads and that for asyncio programs have in common."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from psad_tf.serving.client.channel import MAX_ATTEMPTS, Tls, channel_options
from psad_tf.serving.client.conversation import Conversation, ModelChoice
from psad_tf.serving.client.policy import CallPolicy

_DEFAULT_POLICY = CallPolicy()
_DEFAULT_MODEL = ModelChoice()


class BaseClient:
    """A connection to a server, and what is said over it; `RerankClient` says what the arguments are."""

    _transport: ClassVar[ModuleType] = grpc

    def __init__(
        self,
        address: str,
        *,
        model: ModelChoice = _DEFAULT_MODEL,
        policy: CallPolicy = _DEFAULT_POLICY,
        tls: Tls | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self.model = model
        self.policy = policy
        options = channel_options(max_attempts)
        self._channel = (
            self._transport.insecure_channel(address, options)
            if tls is None
            else self._transport.secure_channel(address, tls.credentials(), options)
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._conversation = Conversation(model)
