"""The API itself, apart from any transport: Predict, metadata, status, reload."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from psad_tf.serving.contract import SERVING_DEFAULT
from psad_tf.serving.server.manager import ModelManager, VersionState
from psad_tf.serving.server.metrics import Metrics
from psad_tf.serving.server.status import ServingError, invalid_argument, not_found

_log = logging.getLogger(__name__)
_SIGNATURE_DEF = "signature_def"
_Answer = TypeVar("_Answer")


class ServingService:
    """Answers requests from the versions that a `ModelManager` keeps loaded.

    Args:
        manager: Keeps the versions.
        metrics: Where requests are counted.
    """

    def __init__(self, manager: ModelManager, metrics: Metrics) -> None:
        self.manager = manager
        self.metrics = metrics

    def predict(
        self, request: predict_pb2.PredictRequest, check_wanted: Callable[[], None] = lambda: None
    ) -> predict_pb2.PredictResponse:
        """PredictionService.Predict; `check_wanted` raises when nobody waits for the answer any more."""
        spec = request.model_spec
        with self.manager.using(spec) as loaded:
            signature = loaded.signature(spec.signature_name)
            start = time.perf_counter()
            outputs = signature.run(request.inputs, request.output_filter, check_wanted)
            self.metrics.runtime(loaded.model, time.perf_counter() - start)
            response = predict_pb2.PredictResponse()
            response.model_spec.name = loaded.model
            response.model_spec.version.value = loaded.version
            response.model_spec.signature_name = spec.signature_name or SERVING_DEFAULT
        for alias, tensor in outputs.items():
            response.outputs[alias].CopyFrom(tensor)
        return response

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """PredictionService.GetModelMetadata."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field[:64]} is not supported")
        loaded = self.manager.lookup(request.model_spec)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in loaded.definitions.items():
            definitions.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = loaded.model
        response.model_spec.version.value = loaded.version
        response.metadata[_SIGNATURE_DEF].Pack(definitions)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """ModelService.GetModelStatus."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        name = request.model_spec.name[:256]
        states = self.manager.states(name)
        choice = request.model_spec.WhichOneof("version_choice")
        if choice is not None:
            states = self._one_state(name, request.model_spec, choice, states)
        elif not states:
            raise not_found(f"Could not find any versions of model {name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in sorted(states.items(), reverse=True):
            status = response.model_version_status.add(version=version, state=state.state)
            status.status.error_code = state.code
            status.status.error_message = state.error
        return response

    def _one_state(
        self, name: str, spec: Any, choice: str, states: dict[int, VersionState]
    ) -> dict[int, VersionState]:
        if choice == "version_label":
            version = self.manager.label_version(name, spec.version_label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label[:64]}")
        else:
            version = spec.version.value
        if version not in states:
            raise not_found(f"Could not find version {version} of model {name}")
        return {version: states[version]}

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """ModelService.HandleReloadConfigRequest."""
        try:
            self.manager.configure(request.config)
        except ServingError as error:
            _log.error("a configuration was not taken over: %s", error.detail)
            raise
        return model_management_pb2.ReloadConfigResponse()

    def measured(self, model: str, api: str, answer: Callable[[], _Answer]) -> _Answer:
        """Runs one request and counts it; anything unforeseen becomes INTERNAL without details.

        Raises:
            ServingError: The request cannot be answered.
        """
        known = model if model in self.manager.models else "unknown"  # bounds the number of time series
        start = time.perf_counter()
        status = "OK"
        with self.metrics.in_flight.track_inprogress():
            try:
                return answer()
            except ServingError as error:
                status = error.code.name
                raise
            except Exception:
                status = grpc.StatusCode.INTERNAL.name
                _log.exception("a request failed")
                raise ServingError(grpc.StatusCode.INTERNAL, "internal error") from None
            finally:
                self.metrics.request(known, status, api, time.perf_counter() - start)
