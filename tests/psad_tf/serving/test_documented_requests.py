"""The requests that docs/serving.md shows are answered."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as prediction

from psad_tf.serving.client import CallPolicy, RerankClient, RerankRequest

TEXT = (pathlib.Path(__file__).parents[3] / "docs" / "serving.md").read_text()


def test_the_request_in_json_is_ranked(reranker_server: Any) -> None:
    found = re.search(r"<!-- request -->\n```json\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    request = RerankRequest.from_dict(json.loads(found[1]))
    with RerankClient(reranker_server.address, policy=CallPolicy(timeout=30, fallback=False)) as client:
        ranking = client.rerank(request)
    assert sorted(item.item_id for item in ranking.items) == ["302", "51"]  # 377 is blocked


def test_the_requests_for_grpcurl_are_answered(reranker_server: Any) -> None:
    """grpcurl reads JSON as `json_format` does."""
    status, predict = (
        json.loads(each) for each in re.findall(r"grpcurl -plaintext -d '(.*?)'", TEXT, re.DOTALL)
    )
    with grpc.insecure_channel(reranker_server.address) as channel:
        asked = json_format.ParseDict(status, get_model_status_pb2.GetModelStatusRequest())
        assert model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(asked).model_version_status
        request = json_format.ParseDict(predict, predict_pb2.PredictRequest())
        answer = prediction.PredictionServiceStub(channel).Predict(request, timeout=30)
    assert sorted(answer.outputs["item_ids"].string_val) == [b"302", b"51"]
    assert list(answer.outputs["length"].int_val) == [2]
