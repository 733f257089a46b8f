"""What the sync and the asyncio client share: channel options, requests, what an answer means."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from psad_tf.errors import InputError
from psad_tf.serving.policy import RerankError
from psad_tf.serving.requests import FeatureLayout

RERANK_EXAMPLES = "rerank_examples"
SERVING_DEFAULT = "serving_default"

# A server that comes back is found within a second, not after gRPC's default of up to two minutes.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
)


@dataclasses.dataclass(frozen=True)
class Tls:
    """Certificates of a client, file names.

    Args:
        ca: The server's authority; None trusts the system's.
        certificate: The client's own, for mutual TLS.
        key: Of that certificate.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """gRPC credentials from the files."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from None


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """Which model is asked: the newest version unless a version or a label is named."""

    name: str = "psad"
    version: int | None = None
    label: str | None = None

    def fill(self, spec: Any) -> None:
        """Writes the choice into a ModelSpec."""
        spec.name = self.name
        if self.label is not None:
            spec.version_label = self.label
        elif self.version is not None:
            spec.version.value = self.version


def metadata_request(model: ModelChoice) -> get_model_metadata_pb2.GetModelMetadataRequest:
    """Asks for the signatures."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    model.fill(request.model_spec)
    return request


def layout_from_metadata(response: Any) -> FeatureLayout:
    """Which features the model wants.

    Raises:
        RerankError: The model is not a reranker.
    """
    definitions = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(definitions)
    if not {SERVING_DEFAULT, RERANK_EXAMPLES} <= definitions.signature_def.keys():
        raise RerankError(grpc.StatusCode.FAILED_PRECONDITION, "the model has no signature of a reranker")
    try:
        return FeatureLayout.from_signature(definitions.signature_def[SERVING_DEFAULT])
    except InputError as error:
        raise RerankError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from None


def examples_request(model: ModelChoice, serialized: list[bytes]) -> predict_pb2.PredictRequest:
    """A Predict request of serialized lists on `rerank_examples`."""
    request = predict_pb2.PredictRequest()
    model.fill(request.model_spec)
    request.model_spec.signature_name = RERANK_EXAMPLES
    tensor = request.inputs["examples"]
    tensor.dtype = types_pb2.DT_STRING
    tensor.tensor_shape.dim.add(size=len(serialized))
    tensor.string_val.extend(serialized)
    return request
