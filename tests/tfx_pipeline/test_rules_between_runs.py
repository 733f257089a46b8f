"""What the pipeline holds against earlier runs: windows of spans, drift, blessing, what is served."""

from __future__ import annotations

import json
import pathlib

import pytest

pytest.importorskip("tfx")

import tensorflow as tf
import tensorflow_data_validation as tfdv
from tfx.components.example_gen import utils
from tfx.proto import example_gen_pb2, pusher_pb2
from tfx.types import standard_artifacts, standard_component_specs
from tfx.utils import proto_utils

from psad_tf.datasets.simulator import SimulatorConfig, declaration
from psad_tf.errors import InputError
from psad_tf.export.model_card import CARD_JSON
from psad_tf.tfx_pipeline.components import list_example_gen_executor as example_gen
from psad_tf.tfx_pipeline.components.drift_gate import SpanBefore, check_drift
from psad_tf.tfx_pipeline.components.evaluator import failed_validation, min_gain, withhold
from psad_tf.tfx_pipeline.components.list_example_gen import WindowDriver
from psad_tf.tfx_pipeline.components.pusher import ALREADY_SERVED, Executor
from psad_tf.tfx_pipeline.evaluation import eval_config
from psad_tf.tfx_pipeline.pipeline import create_pipeline
from psad_tf.tfx_pipeline.rules import BlessingRules, DataRules, DriftRule
from psad_tf.tfx_pipeline.schema import candidate_schema
from psad_tf.tfx_pipeline.settings import PipelineSettings

FEATURES = declaration(SimulatorConfig())


def settings(**changes: object) -> PipelineSettings:
    return PipelineSettings("raw", "root", "serving", "metadata", FEATURES, **changes)


def statistics(ages: list[float], segments: list[str], path: pathlib.Path):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for age, segment in zip(ages, segments, strict=True):
            example = tf.train.Example()
            example.features.feature["age"].float_list.value.append(age)
            example.features.feature["segment"].bytes_list.value.append(segment.encode())
            writer.write(example.SerializeToString())
    return tfdv.generate_statistics_from_tfrecord(str(path))


def test_drift_beyond_the_rule_is_named_and_smaller_drift_passes(tmp_path):
    rules = DataRules(drift=(DriftRule("age", 0.3), DriftRule("segment", 0.3)))
    schema = candidate_schema(FEATURES, rules)
    before = statistics([20.0, 30, 40, 50] * 25, ["s0", "s1"] * 50, tmp_path / "before")
    alike = statistics([20.0, 30, 40, 50] * 25, ["s0", "s0", "s1", "s1", "s1"] * 20, tmp_path / "alike")
    other = statistics([90.0] * 100, ["s0"] * 100, tmp_path / "other")
    assert check_drift(alike, before, schema) == []
    drifted = check_drift(other, before, schema)
    assert {line.split(":")[0] for line in drifted} == {"age", "segment"}


def artifact(kind: type, number: int, span: int):
    made = kind()
    made.id, made.span = number, span
    return made


def test_drift_is_measured_from_the_latest_span_before():
    kind = standard_artifacts.ExampleStatistics
    now = artifact(kind, 9, 7)
    earlier = [artifact(kind, 1, 4), artifact(kind, 2, 6), artifact(kind, 3, 6), artifact(kind, 8, 7), now]
    found = SpanBefore().resolve_artifacts(None, {"statistics": [now], "earlier": earlier})
    assert [each.id for each in found["earlier"]] == [3]
    assert SpanBefore().resolve_artifacts(None, {"statistics": [now], "earlier": [now]})["earlier"] == []


def test_the_span_is_where_the_statistics_take_it_from():
    examples = standard_artifacts.Examples()
    example_gen._mark_span(examples, {utils.SPAN_PROPERTY_NAME: 7})
    assert examples.span == 7


def test_drift_rules_bring_their_gate_before_training():
    with_rules = settings(
        input_pattern="span-{SPAN}/*", data_rules=DataRules(drift=(DriftRule("segment", 0.1),))
    )
    made = {each.id: each for each in create_pipeline(with_rules).components}
    assert made["DriftGate"] in made["Trainer"].upstream_nodes
    assert "DriftGate" not in {each.id for each in create_pipeline(settings()).components}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 2}, "a window and drift rules need spans"),
        ({"data_rules": DataRules(drift=(DriftRule("segment", 0.1),))}, "need spans"),
        ({"window": 0}, "window: must be 1 or more"),
        ({"data_rules": DataRules(drift=(DriftRule("segment", 2.0),))}, "at_most must be in"),
    ],
)
def test_settings_without_spans_have_no_window_and_no_drift(changes, message):
    if "at_most" in message:
        changes = {**changes, "input_pattern": "span-{SPAN}/*"}
    with pytest.raises(InputError, match=message):
        settings(**changes)


def resolved(raw: pathlib.Path, window: int) -> dict[str, object]:
    """What the driver makes of three spans, of which the second is not there."""
    split = example_gen_pb2.Input.Split(name="raw", pattern="span-{SPAN}/version-{VERSION}/*")
    properties = {
        standard_component_specs.INPUT_BASE_KEY: str(raw),
        standard_component_specs.INPUT_CONFIG_KEY: proto_utils.proto_to_json(
            example_gen_pb2.Input(splits=[split])
        ),
        example_gen.OPTIONS: json.dumps({example_gen.WINDOW: window}),
    }
    return WindowDriver(None).resolve_exec_properties(properties, None, None)


def test_a_window_takes_the_spans_before_the_latest_and_their_newest_versions(tmp_path):
    for folder in ("span-1/version-1", "span-1/version-2", "span-3/version-1"):
        for kind in ("impressions", "interactions", "users", "items"):
            path = tmp_path / folder / f"{kind}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n")
    alone, both = resolved(tmp_path, 1), resolved(tmp_path, 3)
    assert alone[utils.SPAN_PROPERTY_NAME] == both[utils.SPAN_PROPERTY_NAME] == 3
    assert json.loads(alone[example_gen.EARLIER]) == []
    assert json.loads(both[example_gen.EARLIER]) == ["span-1/version-2/*"]
    inputs = example_gen._window_inputs(both)
    assert inputs.impressions == tuple(
        str(tmp_path / folder / "impressions.jsonl") for folder in ("span-1/version-2", "span-3/version-1")
    )
    assert inputs.users == (str(tmp_path / "span-3/version-1/users.jsonl"),)
    (tmp_path / "span-1/version-2/impressions.jsonl").write_text("{}\n{}\n")
    changed = resolved(tmp_path, 3)[utils.FINGERPRINT_PROPERTY_NAME]
    assert changed != both[utils.FINGERPRINT_PROPERTY_NAME], "an earlier span's files are in the cache's key"


def test_a_bound_on_the_change_of_a_slice_holds_in_every_slice_of_the_feature():
    config = eval_config(BlessingRules(gain_at_least=0.01, slice_change_at_least=-0.05), ["segment"])
    bounds = [
        bound
        for metric in config.metrics_specs[0].metrics
        for bound in metric.per_slice_thresholds
        if [list(each.feature_keys) for each in bound.slicing_specs] == [["segment"]]
    ]
    (bound,) = bounds
    assert bound.threshold.change_threshold.absolute.value == -0.05
    assert not bound.threshold.HasField("value_threshold")
    assert min_gain(config) == 0.01


def model(folder: pathlib.Path, student: float, initial: float = 0.5) -> pathlib.Path:
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph of %f" % student)
    metrics = {"valid": {"student": {"ndcg@10": student}, "initial": {"ndcg@10": initial}}}
    (folder / CARD_JSON).write_text(json.dumps({"metrics": metrics}))
    return folder


def test_a_student_worse_than_the_initial_order_on_the_validation_lists_is_not_blessed(tmp_path):
    assert failed_validation(str(model(tmp_path / "good", 0.55)), 0.0) == ""
    assert failed_validation(str(model(tmp_path / "bad", 0.45)), -0.1) == "", "the bound is the user's"
    reason = failed_validation(str(tmp_path / "bad"), 0.0)
    assert "validation lists" in reason and "-0.0500" in reason
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = str(tmp_path / "blessing")
    (tmp_path / "blessing").mkdir()
    (tmp_path / "blessing" / "BLESSED").write_text("")
    blessing.set_int_custom_property("blessed", 1)
    withhold(blessing, reason)
    assert blessing.get_int_custom_property("blessed") == 0
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["NOT_BLESSED"]


def push(tmp_path: pathlib.Path, name: str) -> standard_artifacts.PushedModel:
    """Pushes the model `<name>/Format-Serving` blessed."""
    candidate, blessing = standard_artifacts.Model(), standard_artifacts.ModelBlessing()
    candidate.uri = str(tmp_path / name)
    blessing.set_int_custom_property("blessed", 1)
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(tmp_path / f"pushed-{name}")
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(tmp_path / "served"))
    )
    Executor().Do(
        {"model": [candidate], "model_blessing": [blessing]},
        {"pushed_model": [pushed]},
        {"push_destination": proto_utils.proto_to_json(destination)},
    )
    return pushed


def test_a_model_that_is_served_already_is_not_pushed_again(tmp_path, monkeypatch):
    times = iter(range(1000, 9000, 1000))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    model(tmp_path / "one" / "Format-Serving", 0.6)
    model(tmp_path / "two" / "Format-Serving", 0.7)
    assert push(tmp_path, "one").get_int_custom_property("pushed") == 1
    (served,) = (tmp_path / "served").iterdir()
    again = push(tmp_path, "one")
    assert again.get_int_custom_property("pushed") == 0
    assert again.get_string_custom_property(ALREADY_SERVED) == str(served)
    assert push(tmp_path, "two").get_int_custom_property("pushed") == 1
    assert len(list((tmp_path / "served").iterdir())) == 2
