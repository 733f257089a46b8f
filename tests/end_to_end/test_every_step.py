"""Every step by its command, on generated data: logs to lists reranked over gRPC."""

from __future__ import annotations

import io
import json
import pathlib

import pytest
import tensorflow as tf

from psad_tf.cli import main
from tests import tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> pathlib.Path:
    """A folder in which every step has run: raw, lists, run, serving/psad/1."""
    folder = tmp_path_factory.mktemp("world of lists")  # a path with spaces
    settings = tiny.config(slots=8).to_dict()
    settings["data"] = {"batch_size": 32, "list_sizes": [8]}
    settings["epochs"] = 1
    (folder / "config.json").write_text(json.dumps(settings))

    def psad(*arguments: str) -> None:
        assert main(list(arguments)) == 0

    at = {name: str(folder / name) for name in ("raw", "lists", "run", "serving", "config.json")}
    psad("simulate", "--output_dir", at["raw"], "--lists", "200", "--candidates", "8", "--items", "60")
    psad("preprocess", "--input_dir", at["raw"], "--output_dir", at["lists"])
    psad("train", "--lists_dir", at["lists"], "--output_dir", at["run"], "--config", at["config.json"])
    psad("evaluate", "--run_dir", at["run"], "--lists_dir", at["lists"])
    psad("export", "--run_dir", at["run"], "--base_dir", at["serving"], "--lists_dir", at["lists"])
    return folder


def test_evaluation_has_every_model_and_metric(world):
    means = json.loads((world / "run" / "evaluation_test.json").read_text())
    assert set(means) == {"initial", "student", "teacher"}
    assert all(0.0 < each["ndcg@10"] <= 1.0 for each in means.values())


def test_exported_model_has_no_teacher_variable_and_the_run_has(world):
    saved = tf.train.load_checkpoint(str(world / "serving" / "psad" / "1" / "variables" / "variables"))
    names = saved.get_variable_to_shape_map()
    trained = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(world / "run" / "best")))
    assert any("teacher" in name for name in trained.get_variable_to_shape_map())
    assert names and not any("teacher" in name or "decoder" in name for name in names)
    exported = sum(tf.TensorShape(shape).num_elements() for shape in names.values())
    whole = sum(
        tf.TensorShape(shape).num_elements() for shape in trained.get_variable_to_shape_map().values()
    )
    assert exported < whole


def test_served_answers_equal_the_model_in_process(world):
    from export.served import compare_over_grpc

    found = compare_over_grpc(world / "run", world / "serving" / "psad" / "1", world / "lists", limit=10)
    assert found.requests == 10
    assert found.max_abs_diff <= 1e-5
    assert found.same_order == 10


def test_parity_command_passes_on_the_export(world, capsys):
    version = str(world / "serving" / "psad" / "1")
    arguments = ["--run_dir", str(world / "run"), "--model_dir", version, "--lists_dir", str(world / "lists")]
    assert main(["check-parity", *arguments, "--n", "10"]) == 0


def test_rerank_command_answers_raw_records_line_by_line(world, capsys, monkeypatch):
    from psad_tf.serving.server import EmbeddedServer
    from psad_tf.serving.settings import single_model_config

    with open(world / "raw" / "impressions.jsonl", encoding="utf-8") as file:
        requests = [next(file) for _ in range(3)]
    with EmbeddedServer(single_model_config("psad", str(world / "serving" / "psad"))) as server:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(requests)))
        assert main(["rerank", "--server", server.address, "--no_fallback", "--timeout", "30"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(answers) == 3
    for request, answer in zip(map(json.loads, requests), answers, strict=True):
        shown = {candidate["item_id"] for candidate in request["candidates"]}
        assert {item["item_id"] if isinstance(item, dict) else item for item in answer["items"]} == shown
