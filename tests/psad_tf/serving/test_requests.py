from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.features import CategoricalFeature, FeatureDeclaration
from psad_tf.serving.client.encoding import declaration_from_signature, serialized_list
from psad_tf.serving.client.requests import Candidate, HistoryItem, RerankRequest
from tests.export.tiny_run import DECLARATION

NOON = 1_700_049_600  # 2023-11-15, a Wednesday, 12:00 UTC


@pytest.fixture(scope="module")
def layout(exported: pathlib.Path) -> FeatureDeclaration:
    model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    return declaration_from_signature(model.meta_graphs[0].signature_def["serving_default"])


def parsed(serialized: bytes) -> dict[str, np.ndarray]:
    return {
        name: value.numpy() for name, value in parse_lists(tf.constant([serialized]), DECLARATION).items()
    }


def test_the_features_are_read_from_the_signature(layout: FeatureDeclaration) -> None:
    assert {feature.name for feature in layout.context_categorical} == {"user_id", "request_hour"}
    assert [feature.name for feature in layout.context_dense] == ["age"]
    assert CategoricalFeature("genres", width=2) in layout.history.categorical
    assert {feature.name for feature in layout.history.dense} == {"age_seconds", "rating"}
    assert {feature.name for feature in layout.candidate_categorical} == {"item_id", "genres"}
    assert {feature.name for feature in layout.candidate_dense} == {"initial_score", "year"}


def test_what_a_request_lacks_is_missing_not_wrong(layout: FeatureDeclaration) -> None:
    raw = parsed(serialized_list(RerankRequest("u", [Candidate("a")]), layout))
    assert raw["request_hour"].item() == b"" and math.isnan(raw["age"].item())
    assert np.all(raw["history_item_id"] == b"") and math.isnan(raw["initial_score"].item())


def test_history_at_or_after_the_request_is_left_out(layout: FeatureDeclaration) -> None:
    history = [HistoryItem("i1", NOON), HistoryItem("i2", NOON - 1), HistoryItem("i3", NOON + 5)]
    raw = parsed(serialized_list(RerankRequest("u", [Candidate("a")], history, time=NOON), layout))
    assert raw["history_item_id"][0, :, 0].tolist() == [b"i2", b"", b"", b""]
    assert raw["history_age_seconds"][0, 0] == 1.0


def test_history_with_times_for_some_is_refused(layout: FeatureDeclaration) -> None:
    history = [HistoryItem("i1", NOON - 5), HistoryItem("i2")]
    with pytest.raises(InputError, match="1 of 2 interactions have no time"):
        serialized_list(RerankRequest("u", [Candidate("a")], history, time=NOON), layout)


def test_a_request_without_a_time_leaves_what_depends_on_it_missing(layout: FeatureDeclaration) -> None:
    history = [HistoryItem("i1", NOON - 5), HistoryItem("i2", NOON)]
    raw = parsed(serialized_list(RerankRequest("u", [Candidate("a")], history), layout))
    assert raw["history_item_id"][0, :2, 0].tolist() == [b"i2", b"i1"]
    assert np.all(np.isnan(raw["history_age_seconds"])) and raw["request_hour"].item() == b""


def test_history_without_times_is_taken_most_recent_first(layout: FeatureDeclaration) -> None:
    request = RerankRequest("u", [Candidate("a")], [HistoryItem("i1"), HistoryItem("i2")], time=NOON)
    raw = parsed(serialized_list(request, layout))
    assert raw["history_item_id"][0, :2, 0].tolist() == [b"i1", b"i2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected an object"),
        ({"user_id": "u"}, "'candidates' is missing or empty"),
        ({"user_id": "u", "candidates": []}, "'candidates' is missing or empty"),
        ({"user_id": "u", "candidates": {"a": 1}}, "candidates: expected a list"),
        ({"user_id": 3, "candidates": [{"item_id": "a"}]}, "user_id: expected a string"),
        (
            {"user_id": "u", "candidates": [{"item_id": ""}]},
            r"candidates\[0\]: 'item_id' is missing or empty",
        ),
        ({"user_id": "u", "candidates": [{"item_id": "a", "score": 1}]}, "unknown key 'score'"),
        ({"user_id": "u", "candidates": [{"item_id": "a", "initial_score": "1"}]}, "expected a number"),
        ({"user_id": "u", "candidates": [{"item_id": "a"}], "context": []}, "context: expected an object"),
    ],
)
def test_a_wrong_request_is_named(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RerankRequest.from_dict(data)


def test_a_text_where_the_model_wants_a_number_is_named(layout: FeatureDeclaration) -> None:
    with pytest.raises(InputError, match="'year': expected a number, got 'new'"):
        serialized_list(RerankRequest("u", [Candidate("a", features={"year": "new"})]), layout)


def test_a_model_that_is_no_reranker_is_named(models: pathlib.Path) -> None:
    model = saved_model_pb2.SavedModel.FromString((models / "1" / "saved_model.pb").read_bytes())
    with pytest.raises(InputError, match="not a reranker's"):
        declaration_from_signature(model.meta_graphs[0].signature_def["serving_default"])
