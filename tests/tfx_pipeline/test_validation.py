"""Flat candidates, the schema and the rules: what TensorFlow Data Validation finds, and what it lets pass."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

pytest.importorskip("tensorflow_data_validation")

import tensorflow_data_validation as tfdv

from psad_tf.data.list_folder import read_serialized
from psad_tf.errors import InputError
from psad_tf.features import load_declaration
from psad_tf.tfx_pipeline.flatten import flat_examples
from psad_tf.tfx_pipeline.rules import BlessingRules, DataRules, DomainRule, PresenceRule, RangeRule
from psad_tf.tfx_pipeline.schema import candidate_schema
from psad_tf.tfx_pipeline.settings import PipelineSettings


@pytest.fixture(scope="module")
def declaration(raw_dir):
    return load_declaration(raw_dir / "features.json")


@pytest.fixture(scope="module")
def lists(lists_dir) -> list[bytes]:
    return list(read_serialized(lists_dir, "test").take(24).as_numpy_iterator())


@pytest.fixture(scope="module")
def statistics(lists, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("flat") / "candidates.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for serialized in lists:
            for example in flat_examples(serialized):
                writer.write(example)
    return tfdv.generate_statistics_from_tfrecord(path)


def anomalies(statistics, declaration, rules: DataRules) -> set[str]:
    return set(tfdv.validate_statistics(statistics, candidate_schema(declaration, rules)).anomaly_info)


def test_a_candidate_has_its_own_features_and_its_lists(lists):
    first = input_pb2.ExampleListWithContext.FromString(lists[0])
    examples = [tf.train.Example.FromString(each) for each in flat_examples(lists[0])]
    assert len(examples) == len(first.examples)
    for flat, candidate in zip(examples, first.examples, strict=True):
        assert flat.features.feature["item_id"] == candidate.features.feature["item_id"]
        assert flat.features.feature["user_id"] == first.context.features.feature["user_id"]


def test_missing_values_are_absent_from_flat_candidates():
    lists = input_pb2.ExampleListWithContext()
    lists.context.features.feature["segment"].bytes_list.value.append(b"")
    lists.context.features.feature["history_rating"].float_list.value.extend([np.nan, 2.0])
    candidate = lists.examples.add().features.feature
    candidate["genre"].bytes_list.value.extend([b"drama", b""])
    candidate["price"].float_list.value.append(np.nan)
    (flat,) = (tf.train.Example.FromString(each) for each in flat_examples(lists.SerializeToString()))
    assert set(flat.features.feature) == {"history_rating", "genre"}
    assert list(flat.features.feature["genre"].bytes_list.value) == [b"drama"]
    assert list(flat.features.feature["history_rating"].float_list.value) == [2.0]


def test_a_share_takes_whole_lists_and_the_same_ones_again(lists):
    taken = [len(list(flat_examples(each, 0.5))) for each in lists]
    assert taken == [len(list(flat_examples(each, 0.5))) for each in lists]
    assert set(taken) == {0, 8}


def test_sound_lists_have_no_anomaly(statistics, declaration):
    rules = DataRules(
        ranges=(RangeRule("age", 0, 120), RangeRule("relevance", 0, 1)),
        presence=(PresenceRule("segment", 1.0), PresenceRule("popularity", 0.9)),
        domains=(DomainRule("segment", tuple(f"s{number}" for number in range(6))),),
    )
    assert anomalies(statistics, declaration, DataRules()) == set()
    assert anomalies(statistics, declaration, rules) == set()


@pytest.mark.parametrize(
    ("rules", "feature"),
    [
        (DataRules(ranges=(RangeRule("age", 0, 25),)), "age"),
        (DataRules(domains=(DomainRule("segment", ("s0", "s1")),)), "segment"),
    ],
)
def test_values_outside_the_rules_are_anomalies(statistics, declaration, rules, feature):
    assert anomalies(statistics, declaration, rules) == {feature}


def test_a_feature_that_is_missing_too_often_is_an_anomaly(lists, declaration, tmp_path):
    path = str(tmp_path / "candidates.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for index, serialized in enumerate(lists):
            changed = input_pb2.ExampleListWithContext.FromString(serialized)
            if index % 2:
                for candidate in changed.examples:
                    candidate.features.feature["popularity"].float_list.value[0] = np.nan
            for example in flat_examples(changed.SerializeToString()):
                writer.write(example)
    statistics = tfdv.generate_statistics_from_tfrecord(path)
    assert anomalies(statistics, declaration, DataRules(presence=(PresenceRule("popularity", 0.4),))) == set()
    assert anomalies(statistics, declaration, DataRules(presence=(PresenceRule("popularity", 0.6),))) == {
        "popularity"
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (DataRules(ranges=(RangeRule("size", 0, 1),)), "'size' is none of the declared features"),
        (DataRules(ranges=(RangeRule("segment", 0, 1),)), "'segment' is none of the declared"),
        (DataRules(ranges=(RangeRule("age", 2, 1),)), "age: at_least is above at_most"),
        (DataRules(presence=(PresenceRule("age", 1.5),)), "age: at_least must be in"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(declaration, rules, message):
    with pytest.raises(InputError, match=message):
        rules.check(declaration)


def test_rules_are_read_back_equal_from_json():
    rules = DataRules(domains=(DomainRule("segment", ("s0",), 0.5),), ranges=(RangeRule("age", 0, 9),))
    assert DataRules.from_dict(rules.to_dict()) == rules
    with pytest.raises(InputError, match="unknown key 'rangs'"):
        DataRules.from_dict({"rangs": []})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_pattern": "span-{SPAN}/logs.jsonl"}, "must be relative and end in"),
        ({"slices": ("age",)}, "slice 'age': is no categorical context feature"),
        ({"validated_share": 0.0}, "validated_share"),
        ({"model_name": "../psad"}, "model_name"),
        ({"schema_file": "/no/schema.pbtxt"}, "no such file"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(declaration, changes, message):
    settings = {
        "input_base": "raw",
        "pipeline_root": "root",
        "serving_base": "serving",
        "metadata_path": "metadata.sqlite",
        "declaration": declaration,
        "blessing": BlessingRules(),
    }
    with pytest.raises(InputError, match=message):
        PipelineSettings(**(settings | changes))
