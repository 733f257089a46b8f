"""Every step by its command, on generated data: logs to lists reranked over gRPC.

And every step with damaged input or a full disk: one line, exit code 2, nothing left that looks whole.
"""

from __future__ import annotations

import io
import json
import pathlib
import shutil
import subprocess

import pytest
import tensorflow as tf

from psad_tf.cli.main import main
from psad_tf.training.run_folder import load_psad
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> pathlib.Path:
    """A folder in which every step has run: raw, lists, run, serving/psad/1."""
    folder = tmp_path_factory.mktemp("world of lists")  # a path with spaces
    settings = tiny.smallest(slots=8).to_dict()
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
    from psad_tf.evaluation.served import compare_over_grpc

    found = compare_over_grpc(world / "run", world / "serving" / "psad" / "1", world / "lists", limit=10)
    assert found.requests == 10
    assert found.max_abs_diff <= 1e-5 * found.max_abs_score
    assert found.same_order == 10


def test_parity_command_passes_on_the_export(world, capsys):
    version = str(world / "serving" / "psad" / "1")
    arguments = ["--run_dir", str(world / "run"), "--model_dir", version, "--lists_dir", str(world / "lists")]
    assert main(["check-parity", *arguments, "--n", "10"]) == 0


def test_rerank_command_answers_raw_records_line_by_line(world, capsys, monkeypatch):
    from psad_tf.serving.server import EmbeddedServer
    from psad_tf.serving.server.settings import single_model_config

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


def arguments_of(step: str, world: pathlib.Path, output: pathlib.Path, **changed: pathlib.Path) -> list[str]:
    """The command line of a step that reads `world`, but for what is `changed`, and writes `output`."""
    at = {name: str(changed.get(name, world / name)) for name in ("raw", "lists", "run")}
    version, config = str(world / "serving" / "psad" / "1"), str(world / "config.json")
    options = {
        "simulate": ["--output_dir", str(output), "--lists", "200"],
        "preprocess": ["--input_dir", at["raw"], "--output_dir", str(output)],
        "train": ["--lists_dir", at["lists"], "--output_dir", str(output), "--config", config],
        "evaluate": ["--run_dir", at["run"], "--lists_dir", at["lists"], "--output", str(output)],
        "export": ["--run_dir", at["run"], "--lists_dir", at["lists"], "--base_dir", str(output)],
        "check-parity": ["--run_dir", at["run"], "--lists_dir", at["lists"], "--model_dir", version],
        "report": [at["run"], "--lists_dir", at["lists"], "--output", str(output)],
    }
    return [step, *options[step]]


def refused(capfd, arguments: list[str], begun: bool = False) -> str:
    """Runs a command that must fail, before it ranks lists if not `begun`; gives its one line of error."""
    capfd.readouterr()
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.err.startswith("psad: ") and said.err.count("\n") == 1, said.err
    assert begun or "Ranking" not in said.out
    return said.err


@pytest.fixture
def full_disk(tmp_path):
    """A file system without a free byte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    (folder / "other").write_bytes(bytes(65_536))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("step", ["simulate", "preprocess", "train", "evaluate", "export", "report"])
def test_a_full_disk_is_one_line_and_leaves_nothing_whole(world, full_disk, capfd, step):
    error = refused(capfd, arguments_of(step, world, full_disk / "out"), begun=True)
    assert "the disk is full" in error and str(full_disk) in error
    left = {str(path.relative_to(full_disk)) for path in full_disk.rglob("*")}
    assert left <= {"other", "out", "out/psad"}, "the folder for versions may stay, without any"


@pytest.fixture(scope="module")
def damaged(world, tmp_path_factory) -> pathlib.Path:
    """The lists with a byte changed in the middle of every file, of the size that they had."""
    lists = shutil.copytree(world / "lists", tmp_path_factory.mktemp("damaged") / "lists")
    for path in lists.glob("*/*.tfrecord.gz"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    return lists


@pytest.mark.parametrize("step", ["train", "evaluate", "export", "check-parity", "report"])
def test_a_damaged_record_is_one_line_that_names_the_lists(world, damaged, tmp_path, capfd, step):
    error = refused(capfd, arguments_of(step, world, tmp_path / "out", lists=damaged))
    assert "a record cannot be read" in error and "lists" in error
    assert not (tmp_path / "out" / "psad" / "1").exists() and not (tmp_path / "out").is_file()


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_a_damaged_checkpoint_is_one_line_that_names_it(world, tmp_path, capfd, suffix):
    run = shutil.copytree(world / "run", tmp_path / "run")
    path = next((run / "best").glob(f"*.{suffix}"))
    path.write_bytes(path.read_bytes()[:100])
    for step in ("evaluate", "export"):
        error = refused(capfd, arguments_of(step, world, tmp_path / "out", run=run))
        assert str(run / "best") in error and "damaged" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["train", "evaluate", "export", "check-parity", "report"])
def test_a_run_in_place_of_the_lists_is_one_line(world, tmp_path, capfd, step):
    error = refused(capfd, arguments_of(step, world, tmp_path / "out", lists=world / "run"))
    assert str(world / "run") in error
    assert not (tmp_path / "out").is_file() and not (tmp_path / "out" / "psad" / "1").exists()


@pytest.mark.parametrize(
    ("step", "part"),
    [("evaluate", "teacher"), ("export", "student"), ("check-parity", "student"), ("report", "student")],
)
def test_a_run_of_weights_that_are_no_numbers_is_one_line(world, tmp_path, capfd, step, part):
    _, model, _ = load_psad(world / "run")
    weight = {"teacher": model.teacher, "student": model.reranker.student}[part].trainable_variables[-1]
    weight.assign(tf.fill(weight.shape, float("nan")))
    run = shutil.copytree(world / "run", tmp_path / "run")
    shutil.rmtree(run / "best")
    tf.train.Checkpoint(reranker=model.reranker, teacher=model.teacher).save(str(run / "best" / "ckpt"))
    error = refused(capfd, arguments_of(step, world, tmp_path / "out", run=run))
    assert str(run) in error and f"{weight.name.split(':')[0]} has values that are not finite" in error
    assert not (tmp_path / "out").is_file() and not (tmp_path / "out" / "psad" / "1").exists()


@pytest.mark.parametrize("step", ["evaluate", "export", "check-parity", "report"])
def test_lists_in_place_of_the_run_are_one_line(world, tmp_path, capfd, step):
    error = refused(capfd, arguments_of(step, world, tmp_path / "out", run=world / "lists"))
    assert str(world / "lists") in error
    assert not (tmp_path / "out").exists()
