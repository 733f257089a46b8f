"""The REST transport: `/v1/models/...` and the Prometheus page, on Python's own HTTP server."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import ssl
import tempfile
import threading
from typing import Any

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

from psad_tf.errors import InputError
from psad_tf.serving.json_tensors import json_from_tensors, parse_body, tensors_from_json
from psad_tf.serving.service import ServingService
from psad_tf.serving.settings import ServerSettings
from psad_tf.serving.status import ServingError, invalid_argument

_VERSION = r"(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:predict", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}", re.IGNORECASE)
_METADATA = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}/metadata", re.IGNORECASE)

_HTTP_CODES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}


class RestServer:
    """An HTTP server in threads of its own.

    Args:
        service: Answers the requests.
        settings: Address, threads, limits, certificates.

    Raises:
        InputError: The port is taken.
    """

    def __init__(self, service: ServingService, settings: ServerSettings) -> None:
        assert settings.rest_api_port is not None
        try:
            self._server = _Server(service, settings, (settings.host, settings.rest_api_port))
        except OSError as error:
            address = f"{settings.host}:{settings.rest_api_port}"
            reason = os.strerror(error.errno or 0)
            raise InputError(f"{address}: cannot be listened on ({reason})") from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="psad-rest", daemon=True
        )

    def start(self) -> None:
        """Starts answering."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Takes no new connections and waits at most `grace` seconds for the running requests."""
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()
        with self._server.changed:
            self._server.changed.wait_for(lambda: self._server.running == 0, grace)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, service: ServingService, settings: ServerSettings, address: tuple[str, int]) -> None:
        self.service = service
        self.settings = settings
        self.slots = threading.Semaphore(settings.rest_api_num_threads)
        self.running = 0  # requests, not connections
        self.changed = threading.Condition()
        self.context = _tls(settings.ssl) if settings.ssl is not None else None
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.slots.acquire(blocking=False):
            _refuse(request)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(self.settings.rest_api_timeout_seconds)
            if self.context is not None:
                request = self.context.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            self.shutdown_request(request)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the client's business."""


def _refuse(request: socket.socket) -> None:
    body = b'{ "error": "too many connections" }'
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    try:
        request.sendall(head.encode() + body)
    except OSError:
        return


def _tls(config: Any) -> ssl.SSLContext:
    """The gRPC port's certificates for the REST port: TLS on one and plain text beside it would be no TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # the ssl module reads only files
        file.write(config.server_key + "\n" + config.server_cert + "\n")
        file.flush()
        context.load_cert_chain(file.name)
    if config.custom_ca:
        context.load_verify_locations(cadata=config.custom_ca)
    if config.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "psad"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == self.server.settings.prometheus_path:
            self._send(200, self.server.service.metrics.page().encode(), "text/plain; version=0.0.4")
            return
        self._respond("GET", path, b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            self._send_json(411, {"error": "Content-Length is needed"})
            return
        if int(length) > self.server.settings.max_message_bytes:
            self.close_connection = True
            self._send_json(413, {"error": "the request is too large"})
            return
        self._respond("POST", self.path.split("?", 1)[0], self.rfile.read(int(length)))

    def _respond(self, method: str, path: str, body: bytes) -> None:
        service = self.server.service
        try:
            if method == "POST" and (match := _PREDICT.fullmatch(path)):
                found = match
                answer = service.measured(
                    found["name"], "predict", "REST", lambda: _predict(service, found, body)
                )
            elif method == "GET" and (match := _METADATA.fullmatch(path)):
                answer = _metadata(service, match)
            elif method == "GET" and (match := _STATUS.fullmatch(path)):
                answer = _status(service, match)
            else:
                raise invalid_argument(f"Malformed request: {method} {path[:200]}")
        except ServingError as error:
            self._send_json(_HTTP_CODES.get(error.code, 500), {"error": error.message})
            return
        self._send_json(200, answer)

    def parse_request(self) -> bool:
        """Counts a request as running from its first line on, so that shutdown waits for it."""
        self._count(1)
        return super().parse_request()

    def handle_one_request(self) -> None:
        """Reads and answers one request."""
        self._counted = 0
        try:
            super().handle_one_request()
        finally:
            self._count(-self._counted)

    def _count(self, change: int) -> None:
        self._counted += change
        with self.server.changed:
            self.server.running += change
            self.server.changed.notify_all()

    def _send_json(self, code: int, answer: dict[str, Any]) -> None:
        self._send(code, json.dumps(answer).encode(), "application/json")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not logged."""


def _model_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=match["name"])
    if match["version"] is not None:
        if int(match["version"]) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"] is not None:
        spec.version_label = match["label"]
    return spec


def _predict(service: ServingService, match: re.Match[str], body: bytes) -> dict[str, Any]:
    data = parse_body(body)
    spec = _model_spec(match)
    spec.signature_name = data.get("signature_name", "")
    with service.manager.using(spec) as loaded:
        definition = loaded.signature(spec.signature_name).definition
        tensors, form = tensors_from_json(data, definition)
    request = predict_pb2.PredictRequest(model_spec=spec)
    for name, tensor in tensors.items():
        request.inputs[name].CopyFrom(tensor)
    return json_from_tensors(service.predict(request).outputs, form)


def _metadata(service: ServingService, match: re.Match[str]) -> dict[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=_model_spec(match), metadata_field=["signature_def"]
    )
    response = service.metadata(request)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(definitions)
    return {
        "model_spec": _plain(response.model_spec),
        "metadata": {"signature_def": _plain(definitions)},
    }


def _status(service: ServingService, match: re.Match[str]) -> dict[str, Any]:
    return _plain(service.status(get_model_status_pb2.GetModelStatusRequest(model_spec=_model_spec(match))))


def _plain(message: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"preserving_proto_field_name": True, "including_default_value_fields": True}
    return json_format.MessageToDict(message, **options)
