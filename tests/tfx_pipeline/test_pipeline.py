"""The whole pipeline on generated data: first run, the same again, new data, a spoilt model, broken data."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil

import pytest

pytest.importorskip("tfx")

from psad_tf.cli import tfx as command
from psad_tf.cli.main import main
from psad_tf.datasets.simulator import SimulatorConfig, simulate
from psad_tf.errors import InputError
from psad_tf.export.parity import check_parity
from psad_tf.tfx_pipeline.components.anomaly_gate import DataAnomaly
from psad_tf.tfx_pipeline.lineage import LineageNode, pushed_lineage
from psad_tf.tfx_pipeline.metadata import Store
from psad_tf.tfx_pipeline.rules import DriftRule
from psad_tf.tfx_pipeline.runner import PipelineRun, read_run, run_local
from psad_tf.tfx_pipeline.served import check_served
from psad_tf.tfx_pipeline.settings import PipelineSettings
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a fixture runs the pipeline five times

WORLD = SimulatorConfig(lists=320, candidates=6, items=40, seed=7)
SPARED = ("ListExampleGen", "StatisticsGen", "ExampleValidator", "AnomalyGate", "Trainer", "InfraCheck")


@dataclasses.dataclass
class Runs:
    """What the runs left, in their order."""

    settings: PipelineSettings
    folder: pathlib.Path
    first_code: int
    first: PipelineRun
    versions_after_first: list[str]
    again: PipelineRun
    versions_after_again: list[str]
    later: PipelineRun
    spoilt: PipelineRun
    versions_before_spoilt: list[str]
    versions_after_spoilt: list[str]
    anomaly: DataAnomaly
    anomaly_states: dict[str, str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("tfx pipeline")
    raw = folder / "raw"
    simulate(str(raw / "span-1" / "version-2"), WORLD)
    (raw / "span-1" / "version-1").mkdir()
    (raw / "span-1" / "version-1" / "impressions.jsonl").write_text("not JSON")
    config = tiny.config(slots=4, epochs=4).to_dict()
    config["model"]["student"]["hidden_dims"] = [16]
    config["data"] = {"batch_size": 32, "list_sizes": [6]}
    config["optimizer"] = {"learning_rate": 0.01, "embedding_learning_rate": 0.01, "warmup_steps": 1}
    (folder / "config.json").write_text(json.dumps(config))
    rules = {"ranges": [{"feature": "age", "at_least": 0, "at_most": 120}]}
    (folder / "rules.json").write_text(json.dumps(rules))
    options = {
        "--input_dir": raw,
        "--input_pattern": "span-{SPAN}/version-{VERSION}/*",
        "--output_dir": folder / "out",
        "--config": folder / "config.json",
        "--data_rules": folder / "rules.json",
        "--slice": "segment",
        "--min_gain": -1,
        "--min_change": -0.02,
        "--num_shards": 1,
    }
    arguments = [str(each) for pair in options.items() for each in pair]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    settings = command.settings_of(parser.parse_args(arguments))

    def versions() -> list[str]:
        return sorted(each.name for each in (folder / "out" / "serving" / "psad").iterdir())

    first_code = main(["tfx", *arguments])
    first, versions_after_first = read_run(settings), versions()
    again, versions_after_again = run_local(settings), versions()
    new_world = dataclasses.replace(WORLD, lists=400, start_time=WORLD.start_time + 30 * 86_400)
    simulate(str(raw / "span-2" / "version-1"), new_world)
    drift = dataclasses.replace(settings.data_rules, drift=(DriftRule("segment", 0.9),))
    windowed = dataclasses.replace(settings, window=2, data_rules=drift)
    later, versions_before_spoilt = run_local(windowed), versions()
    spoilt = run_local(dataclasses.replace(windowed, run_fn="tests.tfx_pipeline.spoilt.run_fn"))
    versions_after_spoilt = versions()
    broken = raw / "span-3" / "version-1"
    shutil.copytree(raw / "span-1" / "version-2", broken)
    users = [json.loads(line) for line in (broken / "users.jsonl").read_text().splitlines()]
    lines = [json.dumps({**user, "age": 999}) for user in users]
    (broken / "users.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataAnomaly) as anomaly:
        run_local(settings)
    store = Store(settings.metadata_path)
    return Runs(
        settings,
        folder,
        first_code,
        first,
        versions_after_first,
        again,
        versions_after_again,
        later,
        spoilt,
        versions_before_spoilt,
        versions_after_spoilt,
        anomaly.value,
        store.states(store.latest_run(settings.name)),
    )


def test_the_first_run_pushes_a_model_where_serving_looks(runs):
    assert runs.first_code == 0
    (version,) = runs.versions_after_first
    assert runs.first.pushed == str(runs.folder / "out" / "serving" / "psad" / version)
    assert set(runs.first.states.values()) == {"complete"}
    assert runs.first.verdict.passed and not runs.first.verdict.baseline


def test_the_pushed_model_is_the_trained_one_and_model_analysis_measures_it_as_evaluation_does(runs):
    parity = check_parity(runs.first.run_dir, runs.first.pushed, runs.first.lists)
    assert parity.passed
    overall = runs.first.verdict.metrics["overall"]
    assert overall["ndcg_10"] == pytest.approx(parity.ndcg_at_10, abs=1e-5)
    assert 0.0 < overall["map_10"] < 1.0


def test_metrics_are_sliced_by_user_group(runs):
    metrics = dict(runs.first.verdict.metrics)
    overall = metrics.pop("overall")
    assert len(metrics) > 1 and all(name.startswith("segment=s") for name in metrics)
    assert (
        sum(each["example_count"] for each in metrics.values())
        == overall["example_count"]
        == WORLD.lists / 10
    )


def test_the_latest_version_of_a_span_is_taken(runs):
    manifest = json.loads((pathlib.Path(runs.first.lists) / "manifest.json").read_text())
    assert sum(manifest["lists"].values()) == WORLD.lists


def test_the_same_run_again_takes_everything_from_the_cache_that_cost_time(runs):
    assert {name: runs.again.states[name] for name in SPARED} == dict.fromkeys(SPARED, "cached")
    assert runs.again.lists == runs.first.lists and runs.again.run_dir == runs.first.run_dir


def test_the_model_that_is_served_already_is_not_pushed_again(runs):
    assert runs.again.pushed is None and runs.again.already_served == runs.first.pushed
    assert runs.again.verdict.passed
    assert runs.versions_after_again == runs.versions_after_first


def test_the_spans_before_the_latest_are_learnt_from_as_far_as_the_window_reaches(runs):
    manifest = json.loads((pathlib.Path(runs.later.lists) / "manifest.json").read_text())
    read = manifest["counts"]["read"]
    assert read == WORLD.lists + 400
    assert runs.later.states["DriftGate"] == "complete"
    statistics = Store(runs.settings.metadata_path).artifacts("ExampleStatistics")
    assert {each.properties["span"].int_value for each in statistics} == {1, 2, 3}


def test_a_later_run_is_compared_with_the_blessed_model_on_the_new_data_and_pushed(runs):
    verdict = runs.later.verdict
    assert runs.later.lists != runs.first.lists
    assert verdict.baseline["overall"]["example_count"] == verdict.metrics["overall"]["example_count"] >= 40
    assert verdict.passed and runs.later.pushed is not None
    assert runs.versions_before_spoilt[-1] == runs.later.pushed.rsplit("/", 1)[-1]


def test_a_spoilt_model_is_not_pushed(runs):
    verdict = runs.spoilt.verdict
    assert runs.spoilt.pushed is None and not verdict.passed
    assert verdict.baseline["overall"]["ndcg_10"] > verdict.metrics["overall"]["ndcg_10"] + 0.05
    (failure,) = verdict.failures
    assert failure.startswith("overall: ndcg_10 differs by -0.")
    assert runs.spoilt.infra_reason == ""  # it could be served, and is not good enough
    assert runs.versions_after_spoilt == runs.versions_before_spoilt


def test_an_anomaly_ends_the_run_before_training_and_is_named(runs):
    assert "age" in str(runs.anomaly) and "999" in str(runs.anomaly)
    assert runs.anomaly_states["ExampleValidator"] == "complete"
    assert runs.anomaly_states["AnomalyGate"] == "failed"
    assert "Trainer" not in runs.anomaly_states and "Pusher" not in runs.anomaly_states


@pytest.fixture
def pushed_copy(runs, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(runs.first.pushed, tmp_path / "model"))


def test_a_model_is_not_servable_when_a_file_is_damaged(pushed_copy):
    with open(pushed_copy / "variables" / "variables.data-00000-of-00001", "r+b") as file:
        file.write(b"damaged")
    assert "variables.data" in check_served(str(pushed_copy), "psad").reason


def test_a_model_is_not_servable_without_warm_up_requests_to_show_it(pushed_copy):
    (pushed_copy / "assets.extra" / "tf_serving_warmup_requests").unlink()
    assert "no warm-up records" in check_served(str(pushed_copy), "psad").reason


def test_a_model_that_answers_too_slowly_is_not_servable(runs):
    found = check_served(runs.first.pushed, "psad", max_latency_ms=1e-6)
    assert found.requests > 0 and "the median latency is" in found.reason


def _files(node: LineageNode) -> set[str]:
    return {each["path"] for each in node.raw_files}.union(*(_files(each) for each in node.inputs))


def test_lineage_leads_from_the_pushed_model_to_its_raw_files(runs):
    kinds = ("impressions", "interactions", "users", "items")

    def files(version: str) -> set[str]:
        return {str(runs.folder / "raw" / version / f"{kind}.jsonl") for kind in kinds}

    before = {path for path in files("span-1/version-2") if "impressions" in path or "interactions" in path}
    assert _files(pushed_lineage(runs.settings.metadata_path)) == files("span-2/version-1") | before
    (first,) = runs.versions_after_first
    assert _files(pushed_lineage(runs.settings.metadata_path, first)) == files("span-1/version-2")


def test_the_lineage_command_prints_every_step(runs, capsys):
    assert main(["lineage", "--metadata", runs.settings.metadata_path, "--model", runs.first.pushed]) == 0
    shown = capsys.readouterr().out
    for word in (
        "Pusher",
        "Evaluator",
        "InfraCheck",
        "Trainer",
        "ListExampleGen",
        "impressions.jsonl",
        "span 1",
    ):
        assert word in shown


def test_a_model_that_was_not_pushed_has_no_lineage(runs):
    with pytest.raises(InputError, match="was not pushed"):
        pushed_lineage(runs.settings.metadata_path, "12345")


def test_a_span_that_is_not_there_is_named(runs):
    with pytest.raises(InputError, match="no files of span 99"):
        run_local(runs.settings, span=99)
