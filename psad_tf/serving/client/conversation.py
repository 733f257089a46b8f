"""What a client says to a server and makes of the answers, without sending anything itself.

The synchronous client and the asyncio client both drive a `Conversation`: its generators yield the calls to
be made and are sent their answers.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from psad_tf.errors import InputError
from psad_tf.features import FeatureDeclaration
from psad_tf.serving.client.encoding import declaration_from_signature, serialized_list
from psad_tf.serving.client.policy import RerankError
from psad_tf.serving.client.ranking import Ranking, initial_ranking, ranking_from_outputs
from psad_tf.serving.client.requests import RerankRequest
from psad_tf.serving.contract import EXAMPLES, RERANK_EXAMPLES, SERVING_DEFAULT

_log = logging.getLogger(__name__)


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


class Call(NamedTuple):
    """One call of PredictionService: the method's name and the message."""

    method: str
    message: Any


Answers = Generator[Call, Any, "list[Ranking]"]


class Conversation:
    """Asks for features once a connection and again after a new version, encodes, and reads rankings.

    Args:
        model: Which model and version.
    """

    def __init__(self, model: ModelChoice) -> None:
        self.model = model
        self._features: FeatureDeclaration | None = None
        self._version: int | None = None  # whose features they are

    def rerank(self, requests: Sequence[RerankRequest], top: int | None, fallback: bool) -> Answers:
        """The calls that rank several lists.

        Args:
            requests: At least one.
            top: Length of the rankings; None for all.
            fallback: Give the initial order where there is no usable answer.

        Returns:
            Through `StopIteration`: one ranking per request.

        Raises:
            RerankError: There is no usable answer, and no fallback.
            InputError: A request's values do not fit the model's features.
        """
        try:
            features = self._features or (yield from self.features())
            rankings = yield from self._ranked(requests, features, top)
            if rankings[0].version != self._version:
                # Another version answers by now. What it was sent is right if it wants the same features.
                newer = yield from self.features()
                if newer != features:
                    rankings = yield from self._ranked(requests, newer, top)
        except RerankError as error:
            if not fallback:
                raise
            _log.warning("the initial order is returned: %s", error)
            rankings = [initial_ranking(request, top, str(error)) for request in requests]
        return rankings

    def _ranked(
        self, requests: Sequence[RerankRequest], features: FeatureDeclaration, top: int | None
    ) -> Answers:
        message = examples_request(self.model, [serialized_list(each, features) for each in requests])
        response = yield Call("Predict", message)
        return [ranking_from_outputs(each, response, top, row) for row, each in enumerate(requests)]

    def features(self) -> Generator[Call, Any, FeatureDeclaration]:
        """The call that asks which features the model wants.

        Raises:
            RerankError: There is no answer, or the model is no reranker.
        """
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self.model.fill(request.model_spec)
        response = yield Call("GetModelMetadata", request)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(definitions)
        if not {SERVING_DEFAULT, RERANK_EXAMPLES} <= definitions.signature_def.keys():
            raise RerankError(grpc.StatusCode.FAILED_PRECONDITION, "the model has no signature of a reranker")
        try:
            features = declaration_from_signature(definitions.signature_def[SERVING_DEFAULT])
        except InputError as error:
            raise RerankError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from None
        self._features, self._version = features, response.model_spec.version.value or None
        return features


def examples_request(model: ModelChoice, serialized: Sequence[bytes]) -> predict_pb2.PredictRequest:
    """A Predict request of serialized lists on `rerank_examples`."""
    request = predict_pb2.PredictRequest()
    model.fill(request.model_spec)
    request.model_spec.signature_name = RERANK_EXAMPLES
    tensor = request.inputs[EXAMPLES]
    tensor.dtype = types_pb2.DT_STRING
    tensor.tensor_shape.dim.add(size=len(serialized))
    tensor.string_val.extend(serialized)
    return request
