"""Training reads what the Beam job wrote, serving what the client sends: both must be the same values."""

from __future__ import annotations

import json
import pathlib
import random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2

from psad_tf.data.encode_record import RecordEncoder
from psad_tf.data.list_folder import read_serialized
from psad_tf.data.list_protos import ListSerializer
from psad_tf.data.parsing import parse_lists
from psad_tf.export.signatures import raw_specs
from psad_tf.features import FeatureDeclaration
from psad_tf.serving.client.encoding import declaration_from_signature, serialized_list
from psad_tf.serving.client.requests import RerankRequest, with_attributes
from tests.beam.logs import DECLARATION

START = 1_600_000_000
ITEMS: dict[str, dict[str, Any]] = {
    "a": {"genres": ["drama", "war", "comedy"], "price": 3, "year": 1990.5, "badge": "new"},
    "b": {"genres": "war", "price": None, "badge": 7},
    "ü\u0000": {"genres": [], "year": 2001, "badge": 1.25},
    "ab": {"genres": ["x" * 40], "price": -0.0},
    "日本": {},
}
IDS = [*ITEMS, "unknown", "a\u0000"]
USERS: dict[str, dict[str, Any]] = {
    "u": {"segment": "s1", "age": 41, "request_hour": "3"},
    "v": {"age": None},
}


def signature(declaration: FeatureDeclaration) -> Any:
    """What `serving_default` says of these features."""
    definition = meta_graph_pb2.SignatureDef()
    for name, spec in raw_specs(declaration).items():
        info = definition.inputs[name]
        info.dtype = spec.dtype.as_datatype_enum
        info.tensor_shape.CopyFrom(spec.shape.as_proto())
    return definition


WANTED = declaration_from_signature(signature(DECLARATION))


def sent(impression: dict[str, Any], interactions: list[dict[str, Any]]) -> bytes:
    """What the client sends for a raw record and a raw log."""
    history = [
        {name: value for name, value in each.items() if name != "user_id"}
        for each in interactions
        if each["user_id"] == impression["user_id"]
    ]
    return serialized_list(
        with_attributes(RerankRequest.from_dict(impression | {"history": history}), USERS, ITEMS), WANTED
    )


def assert_same_inputs(logged: bytes, requested: bytes) -> None:
    expected, found = (parse_lists(tf.constant([each]), DECLARATION) for each in (logged, requested))
    for name, values in expected.items():
        if name not in ("relevance", "negative", "shown_position"):
            np.testing.assert_array_equal(found[name].numpy(), values.numpy(), err_msg=name)


texts = st.text("aZ é日𝄞\u0000", min_size=1, max_size=4)
numbers = st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e30, 1e30))
interactions = st.fixed_dictionaries(
    {
        "user_id": st.just("u"),
        "item_id": st.sampled_from(IDS),
        "time": st.integers(START - 3, START + 1),  # many of the same second, some too late
        "feedback": st.dictionaries(st.sampled_from(["rating", "bought"]), numbers),
    }
)
values = st.one_of(st.none(), texts, st.integers(0, 9), st.floats(0, 9), st.lists(texts, max_size=3))
candidates = st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(
    log=st.lists(interactions, max_size=9),
    shown=candidates,
    scores=st.lists(st.floats(-1e30, 1e30), min_size=4, max_size=4),
    features=st.dictionaries(st.sampled_from(["genres", "badge"]), values),
    context=st.dictionaries(st.sampled_from(["device", "segment", "request_weekday"]), values),
    price=numbers,
    order=st.randoms(use_true_random=False),
)
def test_any_request_is_encoded_as_its_log_is(
    log: list[Any], shown: list[str], scores: list[float], features: Any, context: Any, price: Any, order: Any
) -> None:
    """Ties, cuts at H = 5, missing values, unicode, logs in any order."""
    impression = {
        "request_id": "r",
        "user_id": "u",
        "time": START,
        "context": context,
        "candidates": [
            {"item_id": item, "initial_score": score, "features": features | {"price": price}}
            for item, score in zip(shown, scores, strict=False)
        ],
    }
    encoder = RecordEncoder(DECLARATION, ITEMS.get)
    past = [encoder.interaction(each["time"], each["item_id"], each["feedback"]) for each in log]
    history = encoder.history(past, START, DECLARATION.history.length)
    logged = ListSerializer(DECLARATION)(encoder.encode(impression, USERS["u"], history))
    order.shuffle(log)
    assert_same_inputs(logged, sent(impression, log))


@pytest.mark.slow
def test_the_beam_jobs_lists_are_what_the_client_sends(tmp_path: pathlib.Path) -> None:
    """The job itself, on a log with interactions of the same second, in no order."""
    from psad_tf.beam.pipeline import preprocess

    rng = random.Random(1)
    log = [
        {
            "user_id": rng.choice(["u", "v", "stranger"]),
            "item_id": rng.choice(IDS),
            "time": START + rng.randrange(20),
            "feedback": {"rating": rng.choice([1, 2.5, 5, None]), "bought": rng.choice([0, 1])},
        }
        for _ in range(150)
    ]
    impressions = [
        {
            "request_id": f"r{number}",
            "user_id": rng.choice(["u", "v", "stranger"]),
            "time": START + rng.randrange(25),
            "context": {"device": rng.choice(["tv", None])},
            "candidates": [
                {"item_id": item, "initial_score": rng.random(), "feedback": {"rating": rng.choice([1, 5])}}
                for item in rng.sample(IDS, 4)
            ],
        }
        for number in range(60)
    ]
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, records in (
        ("impressions", impressions),
        ("interactions", log),
        ("users", [{"user_id": user} | values for user, values in USERS.items()]),
        ("items", [{"item_id": item} | values for item, values in ITEMS.items()]),
    ):
        (raw / f"{name}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    preprocess(str(raw), str(tmp_path / "lists"), DECLARATION)
    logged = {}
    for split in ("train", "valid", "test"):
        for record in read_serialized(tmp_path / "lists", split).as_numpy_iterator():
            logged[parse_lists(tf.constant([record]), DECLARATION)["request_id"].numpy()[0].decode()] = record
    assert len(logged) == len(impressions)
    for impression in impressions:
        assert_same_inputs(logged[impression["request_id"]], sent(impression, log))
