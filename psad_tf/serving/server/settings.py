"""Settings of the embedded server, and readers of TensorFlow Serving's configuration files."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, TypeVar

from google.protobuf import message, text_format
from tensorflow_serving.config import model_server_config_pb2

from psad_tf.errors import InputError
from psad_tf.serving.server.config_protos import BatchingParameters, SSLConfig

_Message = TypeVar("_Message", bound=message.Message)


@dataclasses.dataclass(frozen=True)
class Batching:
    """Dynamic batching; names, meanings and defaults are those of `BatchingParameters`.

    Args:
        max_batch_size: Lists in a batch, at most.
        batch_timeout_micros: Time to wait for a batch to fill, at most.
        max_enqueued_batches: Batches that may wait; beyond, requests are refused.
        num_batch_threads: Batches running at once.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How the embedded server runs; models are configured apart, in a `ModelServerConfig`.

    Args:
        host: Address to listen on; loopback unless told otherwise.
        port: gRPC port; 0 takes a free one.
        metrics_host: Address of `/metrics`; loopback unless told otherwise.
        metrics_port: Its port; 0 takes a free one, None leaves it out.
        grpc_max_threads: Requests worked on at once; 0 chooses by CPUs and batching.
        max_queued_requests: Requests waiting beyond those; more are answered RESOURCE_EXHAUSTED.
        max_message_bytes: Size of a request, at most.
        file_system_poll_wait_seconds: Time between looks at the base paths; 0 never looks again.
        model_config_file_poll_wait_seconds: Time between looks at the configuration file, where the server
            was given one; 0 never looks again.
        drain_seconds: Time that running requests get at shutdown, or before a version is unloaded.
        enable_model_warmup: Replay a version's warm-up records before it takes traffic.
        allow_version_labels_for_unavailable_models: Whether a label not yet assigned may name a version that
            is not loaded.
        batching: None answers each request alone.
        ssl: Certificates; None serves in plain text.
    """

    host: str = "127.0.0.1"
    port: int = 0
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    grpc_max_threads: int = 0
    max_queued_requests: int = 256
    max_message_bytes: int = 16 * 2**20
    file_system_poll_wait_seconds: float = 1.0
    model_config_file_poll_wait_seconds: float = 0.0
    drain_seconds: float = 10.0
    enable_model_warmup: bool = True
    allow_version_labels_for_unavailable_models: bool = False
    batching: Batching | None = None
    ssl: Any = None

    @property
    def threads(self) -> int:
        """Worker threads: with batching enough to fill two batches, as TensorFlow Serving advises."""
        if self.grpc_max_threads:
            return self.grpc_max_threads
        per_cpu = 4 * (os.cpu_count() or 1)
        return max(per_cpu, min(2 * self.batching.max_batch_size, 256)) if self.batching else per_cpu


def single_model_config(name: str, base_path: str | os.PathLike[str]) -> Any:
    """The `ModelServerConfig` of one model, newest version."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=os.path.abspath(os.fspath(base_path)), model_platform="tensorflow"
    )
    return config


def read_model_config(path: str | os.PathLike[str]) -> Any:
    """Reads `models.config`, a text `ModelServerConfig`.

    Raises:
        InputError: The file is missing or does not parse; the message has file and line.
    """
    config = read_text_proto(path, model_server_config_pb2.ModelServerConfig())
    if not config.model_config_list.config:
        raise InputError(f"{os.fspath(path)}: names no model (model_config_list is empty)")
    return config


def read_batching(path: str | os.PathLike[str]) -> Batching:
    """Reads `batching_parameters.txt`, a text `BatchingParameters`.

    Raises:
        InputError: The file is missing, does not parse, or holds a value that cannot be had here.
    """
    name = os.fspath(path)
    given = read_text_proto(path, BatchingParameters())
    fields = [field.name for field in dataclasses.fields(Batching)]
    for field, _ in given.ListFields():
        if field.name not in fields:
            raise InputError(
                f"{name}: {field.name}: the embedded server does without: it pads lists itself, and no batch"
            )
    batching = Batching(**{field: getattr(given, field).value for field in fields if given.HasField(field)})
    for field in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(batching, field) < 1:
            raise InputError(f"{name}: {field} must be at least 1, got {getattr(batching, field)}")
    if batching.batch_timeout_micros < 0:
        raise InputError(f"{name}: batch_timeout_micros must not be negative")
    return batching


def read_ssl(path: str | os.PathLike[str]) -> Any:
    """Reads `ssl.config`, a text `SSLConfig` whose fields hold PEM text.

    Raises:
        InputError: The file is missing, does not parse, or lacks the key or the certificate.
    """
    name = os.fspath(path)
    config = read_text_proto(path, SSLConfig())
    for field in ("server_key", "server_cert"):
        if "-----BEGIN" not in getattr(config, field):
            raise InputError(f"{name}: {field} must hold PEM text")
    if config.client_verify and "-----BEGIN" not in config.custom_ca:
        raise InputError(f"{name}: client_verify needs custom_ca, the PEM text of the clients' authority")
    return config


def read_text_proto(path: str | os.PathLike[str], into: _Message) -> _Message:
    """Parses a text proto file.

    Raises:
        InputError: Naming the file and the line.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), into)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read ({error})") from None
    except text_format.ParseError as error:
        raise InputError(f"{name}:{error}") from None
