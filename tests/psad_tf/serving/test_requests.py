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
from psad_tf.serving.client.requests import (
    Candidate,
    Feature,
    FeatureLayout,
    HistoryItem,
    RerankRequest,
    serialized_list,
    with_attributes,
)
from tests.export.tiny_run import DECLARATION

ITEMS = {
    "i1": {"genres": ["drama", "war"], "year": 1990.0},
    "i2": {"genres": ["comedy"], "year": 2001},
    "i3": {"genres": []},
}
NOON = 1_700_049_600  # 2023-11-15, a Wednesday, 12:00 UTC


@pytest.fixture(scope="module")
def layout(exported: pathlib.Path) -> FeatureLayout:
    model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    return FeatureLayout.from_signature(model.meta_graphs[0].signature_def["serving_default"])


def parsed(serialized: bytes) -> dict[str, np.ndarray]:
    return {
        name: value.numpy() for name, value in parse_lists(tf.constant([serialized]), DECLARATION).items()
    }


def test_the_layout_is_read_from_the_signature(layout: FeatureLayout) -> None:
    assert layout.context == (
        Feature("age", "age", 0),
        Feature("request_hour", "request_hour", 1),
        Feature("user_id", "user_id", 1),
    )
    assert Feature("genres", "history_genres", 2) in layout.history
    assert Feature("age_seconds", "history_age_seconds", 0) in layout.history
    assert {feature.name for feature in layout.candidates} == {"item_id", "genres", "initial_score", "year"}


def test_the_client_encodes_a_request_as_the_beam_job_encodes_its_log(layout: FeatureLayout) -> None:
    """Training reads what Beam wrote, serving what the client sends: the two must parse to the same."""
    from psad_tf.data.encode_record import RecordEncoder
    from psad_tf.data.list_protos import ListSerializer

    encoder = RecordEncoder(DECLARATION, ITEMS.get)
    interactions = [("i2", NOON - 500, 3.0), ("i1", NOON - 100, 5.0), ("unknown", NOON - 100, 1.0)]
    history = [encoder.interaction(time, item, {"rating": rating}) for item, time, rating in interactions]
    impression: dict[str, Any] = {
        "request_id": "r",
        "user_id": "u3",
        "time": NOON,
        "context": {"user_id": "not this", "age": None},
        "candidates": [
            {"item_id": "i3", "initial_score": 2.5, "features": {"year": 1999, "genres": "war"}},
            {"item_id": "i1", "initial_score": 1.5},
            {"item_id": "stranger", "initial_score": 0.5, "features": {"genres": None}},
        ],
    }
    users = {"u3": {"age": 41, "request_hour": "3"}}
    beam = ListSerializer(DECLARATION)(encoder.encode(impression, users["u3"], history))
    request = RerankRequest.from_dict(
        impression
        | {
            "history": [
                {"item_id": item, "time": time, "feedback": {"rating": rating}}
                for item, time, rating in interactions
            ]
        }
    )
    client = serialized_list(with_attributes(request, users, ITEMS), layout)
    expected, found = parsed(beam), parsed(client)
    for name, values in expected.items():
        if name not in ("relevance", "negative", "shown_position"):
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found["request_hour"].item() == b"12"


def test_what_a_request_lacks_is_missing_not_wrong(layout: FeatureLayout) -> None:
    raw = parsed(serialized_list(RerankRequest("u", [Candidate("a")]), layout))
    assert raw["request_hour"].item() == b"" and math.isnan(raw["age"].item())
    assert np.all(raw["history_item_id"] == b"") and math.isnan(raw["initial_score"].item())


def test_history_at_or_after_the_request_is_left_out(layout: FeatureLayout) -> None:
    history = [HistoryItem("i1", NOON), HistoryItem("i2", NOON - 1), HistoryItem("i3", NOON + 5)]
    raw = parsed(serialized_list(RerankRequest("u", [Candidate("a")], history, time=NOON), layout))
    assert raw["history_item_id"][0, :, 0].tolist() == [b"i2", b"", b"", b""]
    assert raw["history_age_seconds"][0, 0] == 1.0


def test_history_without_times_is_taken_most_recent_first(layout: FeatureLayout) -> None:
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


def test_a_text_where_the_model_wants_a_number_is_named(layout: FeatureLayout) -> None:
    with pytest.raises(InputError, match="'year': expected a number, got 'new'"):
        serialized_list(RerankRequest("u", [Candidate("a", features={"year": "new"})]), layout)


def test_a_model_that_is_no_reranker_is_named(models: pathlib.Path) -> None:
    model = saved_model_pb2.SavedModel.FromString((models / "1" / "saved_model.pb").read_bytes())
    with pytest.raises(InputError, match="not a reranker's"):
        FeatureLayout.from_signature(model.meta_graphs[0].signature_def["serving_default"])
