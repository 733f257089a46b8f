"""Settings of the embedded server, and readers of TensorFlow Serving's configuration files."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, TypeVar

from google.protobuf import message, text_format
from tensorflow_serving.config import model_server_config_pb2

from psad_tf.errors import InputError
from psad_tf.serving.config_protos import BatchingParameters, MonitoringConfig, SSLConfig

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"

_Message = TypeVar("_Message", bound=message.Message)


@dataclasses.dataclass(frozen=True)
class Batching:
    """Dynamic batching; names, meanings and defaults are those of `BatchingParameters`.

    Args:
        max_batch_size: Most lists in a batch.
        batch_timeout_micros: Longest wait for a batch to fill.
        max_enqueued_batches: Batches waiting at most; beyond, requests are refused.
        num_batch_threads: Batches running at once.
        allowed_batch_sizes: Sizes that batches are padded up to; empty for none.
        enable_large_batch_splitting: Whether a larger request is split instead of refused.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How the embedded server runs; models are configured apart, in a `ModelServerConfig`.

    Args:
        host: Address to listen on; loopback unless told otherwise.
        port: gRPC port; 0 takes a free one.
        rest_api_port: REST port; 0 takes a free one, None leaves REST out.
        grpc_max_threads: Requests worked on at once; 0 chooses by CPUs and batching.
        max_queued_requests: Requests waiting beyond those; more are answered RESOURCE_EXHAUSTED.
        max_message_bytes: Largest request.
        rest_api_num_threads: REST connections served at once.
        rest_api_timeout_seconds: Longest time for one REST request.
        file_system_poll_wait_seconds: Time between looks at the base paths; 0 never looks again.
        model_config_file_poll_wait_seconds: Time between looks at the configuration file, where the server
            was given one; 0 never looks again.
        drain_seconds: Time that running requests get at shutdown, or before a version is unloaded.
        enable_model_warmup: Replay a version's warm-up records before it takes traffic.
        allow_version_labels_for_unavailable_models: Whether a label may name a version that is not loaded.
        batching: None answers each request alone.
        prometheus_path: Path of the metrics page on the REST port; None leaves it out.
        ssl: Certificates; None serves in plain text.
    """

    host: str = "127.0.0.1"
    port: int = 0
    rest_api_port: int | None = 0
    grpc_max_threads: int = 0
    max_queued_requests: int = 256
    max_message_bytes: int = 16 * 2**20
    rest_api_num_threads: int = 16
    rest_api_timeout_seconds: float = 30.0
    file_system_poll_wait_seconds: float = 1.0
    model_config_file_poll_wait_seconds: float = 0.0
    drain_seconds: float = 10.0
    enable_model_warmup: bool = True
    allow_version_labels_for_unavailable_models: bool = False
    batching: Batching | None = None
    prometheus_path: str | None = PROMETHEUS_PATH
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
        InputError: The file is missing, does not parse, or holds values that exclude each other.
    """
    name = os.fspath(path)
    given = read_text_proto(path, BatchingParameters())
    if given.pad_variable_length_inputs:
        raise InputError(
            f"{name}: pad_variable_length_inputs pads with a tensor's first element, which would add "
            "copies of the first candidate to a list; send lists of equal length, or use the signature "
            "'rerank_examples'"
        )
    values: dict[str, Any] = {}
    for field in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"):
        if given.HasField(field):
            values[field] = getattr(given, field).value
    if given.HasField("enable_large_batch_splitting"):
        values["enable_large_batch_splitting"] = given.enable_large_batch_splitting.value
    batching = Batching(allowed_batch_sizes=tuple(given.allowed_batch_sizes), **values)
    for field in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(batching, field) < 1:
            raise InputError(f"{name}: {field} must be at least 1, got {getattr(batching, field)}")
    if batching.batch_timeout_micros < 0:
        raise InputError(f"{name}: batch_timeout_micros must not be negative")
    sizes = batching.allowed_batch_sizes
    if sizes and list(sizes) != sorted(set(sizes)):
        raise InputError(f"{name}: allowed_batch_sizes must increase, got {list(sizes)}")
    execution = given.max_execution_batch_size.value or batching.max_batch_size
    last = execution if batching.enable_large_batch_splitting else batching.max_batch_size
    if sizes and sizes[-1] != last:
        raise InputError(f"{name}: the last of allowed_batch_sizes must be {last}, got {sizes[-1]}")
    return batching


def read_prometheus_path(path: str | os.PathLike[str]) -> str | None:
    """Reads `monitoring.config`, a text `MonitoringConfig`; None where Prometheus is not enabled."""
    config = read_text_proto(path, MonitoringConfig()).prometheus_config
    return (config.path or PROMETHEUS_PATH) if config.enable else None


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
