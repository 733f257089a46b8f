"""The gRPC transport: PredictionService, ModelService, health and reflection."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from psad_tf.errors import InputError
from psad_tf.serving.server.service import ServingService
from psad_tf.serving.server.settings import ServerSettings
from psad_tf.serving.server.status import ServingError

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"

# Reflection needs the services' descriptors. Their generated modules register them, then fail on a line
# that newer protobuf no longer allows.
for _module in ("model_service_pb2", "prediction_service_pb2"):
    with contextlib.suppress(AttributeError):
        importlib.import_module(f"tensorflow_serving.apis.{_module}")


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Classify, Regress and MultiInference stay unimplemented: no exported model has such signatures."""

    def __init__(self, service: ServingService) -> None:
        self._service = service

    def Predict(self, request: Any, context: Any) -> Any:
        wanted = functools.partial(_check_wanted, context)
        return _answer(
            self._service, "predict", request, context, lambda: self._service.predict(request, wanted)
        )

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        return _answer(
            self._service, "get_model_metadata", request, context, lambda: self._service.metadata(request)
        )


class _Model(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, service: ServingService) -> None:
        self._service = service

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        return _answer(
            self._service, "get_model_status", request, context, lambda: self._service.status(request)
        )

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        return _answer(self._service, "reload_config", None, context, lambda: self._service.reload(request))


def _check_wanted(context: Any) -> None:
    """Stops the work on a call whose caller has gone or whose deadline has passed.

    Raises:
        ServingError: DEADLINE_EXCEEDED or CANCELLED.
    """
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    if not context.is_active():
        raise ServingError(grpc.StatusCode.CANCELLED, "Cancelled")


def _answer(service: ServingService, api: str, request: Any, context: Any, answer: Callable[[], Any]) -> Any:
    """Runs one call, unless its deadline passed while it waited for a thread."""

    def in_time() -> Any:
        _check_wanted(context)
        return answer()

    model = request.model_spec.name if request is not None else ""
    try:
        return service.measured(model, api, in_time)
    except ServingError as error:
        return context.abort(error.code, error.message)


class GrpcServer:
    """A gRPC server in threads of its own.

    Args:
        service: Answers the requests.
        settings: Address, threads, limits, certificates.

    Raises:
        InputError: The port is taken, or the certificates cannot be read.
    """

    def __init__(self, service: ServingService, settings: ServerSettings) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(settings.threads, "psad-grpc")
        self._server = grpc.server(
            self._pool,
            maximum_concurrent_rpcs=settings.threads + settings.max_queued_requests,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", 16 * 1024),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Prediction(service), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Model(service), self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [_PREDICTION, _MODEL, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        address = f"{settings.host}:{settings.port}"
        try:
            if settings.ssl is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(settings.ssl))
        except RuntimeError:
            self.port = 0
        if not self.port:
            self._pool.shutdown()
            raise InputError(f"{address}: cannot be listened on (is the port taken?)")

    def start(self) -> None:
        """Starts answering; health is NOT_SERVING until `set_health`."""
        self.set_health(False)
        self._server.start()

    def set_health(self, serving: bool) -> None:
        """What the health service says, of the whole server and of each service."""
        state = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", _PREDICTION, _MODEL):
            self._health.set(name, state)

    def end_health(self) -> None:
        """Health is NOT_SERVING from now on, whatever is set later."""
        self._health.enter_graceful_shutdown()

    def stop(self, grace: float) -> None:
        """Takes no new requests, and ends when the running ones have, at the latest after `grace` seconds."""
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _credentials(ssl: Any) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(ssl.server_key.encode(), ssl.server_cert.encode())],
        root_certificates=ssl.custom_ca.encode() or None,
        require_client_auth=ssl.client_verify,
    )
