"""The command line: one clear line and exit code 2 for what a tired person types."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from psad_tf.cli import main as cli


def fails(capsys, *arguments: str) -> str:
    """Runs a command that must fail; gives its one line of error."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def test_help_names_every_step(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for step in ("fetch-data", "build-lists", "preprocess", "train", "evaluate", "export", "serve", "rerank"):
        assert step in shown


def test_help_does_not_import_tensorflow():
    code = "import sys, psad_tf.cli.main as c; c.build_parser(); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    command = [sys.executable, "-m", "psad_tf.cli", "simulate", "--output_dir", str(tmp_path / "raw")]
    with subprocess.Popen(
        [*command, "--lists", "10"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_keras_says_nothing_of_checkpoints_that_take_longer_than_a_step(capsys, caplog):
    fails(capsys, "rerang")
    logger = logging.getLogger("tensorflow")
    logger.warning(
        "Callback method `on_train_batch_end` is slow compared to the batch time (batch time: %f)", 1
    )
    logger.warning("something else")
    assert caplog.messages == ["something else"]


def test_unknown_subcommand(capsys):
    assert "'rerang'" in fails(capsys, "rerang")


def test_unknown_option(capsys):
    assert "--list_dir" in fails(capsys, "train", "--list_dir", "x", "--lists_dir", "y", "--output_dir", "z")


def test_missing_lists(capsys, tmp_path):
    error = fails(capsys, "train", "--lists_dir", str(tmp_path / "no"), "--output_dir", str(tmp_path / "run"))
    assert "no such folder of lists" in error
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.partial").exists()


def test_missing_raw_data(capsys, tmp_path):
    arguments = ["--input_dir", str(tmp_path / "no"), "--output_dir", str(tmp_path / "lists")]
    assert "no" in fails(capsys, "preprocess", *arguments)
    assert not (tmp_path / "lists").exists()


def test_missing_run(capsys, tmp_path, lists_dir):
    evaluate = ["evaluate", "--run_dir", str(tmp_path / "no"), "--lists_dir", str(lists_dir)]
    assert cli.main(evaluate) == 2
    assert capsys.readouterr().out == ""  # nothing is announced that will not be done
    error = fails(capsys, *evaluate)
    assert "no such run folder" in error
    assert "no such run folder" in fails(
        capsys, "export", "--run_dir", str(tmp_path / "no"), "--base_dir", str(tmp_path / "serving")
    )


def test_truncated_record_file(capsys, tmp_path, lists_dir):
    import shutil

    lists = shutil.copytree(lists_dir, tmp_path / "lists")
    path = sorted((lists / "train").glob("*.gz"))[0]
    path.write_bytes(path.read_bytes()[:-50])
    error = fails(capsys, "train", "--lists_dir", str(lists), "--output_dir", str(tmp_path / "run"))
    assert path.name in error and "truncated" in error
    assert not (tmp_path / "run").exists()


def test_declaration_that_does_not_match_the_data(capsys, tmp_path, lists_dir):
    from psad_tf.data.list_folder import load_manifest

    declaration = load_manifest(lists_dir)["declaration"]
    declaration["context_categorical"].append({"name": "planet"})
    (tmp_path / "features.json").write_text(json.dumps(declaration))
    arguments = ["--lists_dir", str(lists_dir), "--output_dir", str(tmp_path / "run")]
    error = fails(capsys, "train", *arguments, "--features", str(tmp_path / "features.json"))
    assert "'planet'" in error
    assert not (tmp_path / "run.partial").exists()


def test_wrong_key_in_a_configuration_is_refused_before_any_data_is_read(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"optimizer": {"learning_rate": 0}}')
    arguments = ["--lists_dir", "nowhere", "--output_dir", "x", "--config", str(tmp_path / "config.json")]
    assert "optimizer.learning_rate" in fails(capsys, "train", *arguments)


def test_output_under_a_file_is_one_line(capsys, tmp_path, raw_dir):
    (tmp_path / "file").write_text("")
    arguments = ["--input_dir", str(raw_dir), "--output_dir", str(tmp_path / "file" / "lists")]
    assert "cannot be written" in fails(capsys, "preprocess", *arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[1]", "expected an object"),
        ('{"epocs": 3}', "'epocs'"),
        ('{"optimizer": 3}', "optimizer"),
        ('{"epochs": "many"}', "epochs"),
        ('{"data": {"batch_size": -5}}', "data.batch_size"),
    ],
)
def test_a_wrong_configuration_file_is_named_with_what_is_wrong(capsys, tmp_path, lists_dir, text, said):
    path = tmp_path / "config.json"
    path.write_text(text)
    arguments = ["--lists_dir", str(lists_dir), "--output_dir", str(tmp_path / "run")]
    error = fails(capsys, "train", *arguments, "--config", str(path))
    assert str(path) in error and said in error
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("option", [("--epochs", "0"), ("--epochs", "-3"), ("--seed", "-1")])
def test_impossible_numbers_are_refused(capsys, tmp_path, lists_dir, option):
    arguments = ["--lists_dir", str(lists_dir), "--output_dir", str(tmp_path / "run")]
    assert option[0].strip("-") in fails(capsys, "train", *arguments, *option)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [("--seeds", "0"), ("--seeds", "-1"), ("--config", "none.json")])
def test_a_demo_that_cannot_run_starts_nothing(capsys, tmp_path, option):
    fails(capsys, "demo", "--output_dir", str(tmp_path / "demo"), *option)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_a_file(capsys, tmp_path, raw_dir, lists_dir):
    lists = ["--lists_dir", str(lists_dir), "--output_dir", str(tmp_path / "run")]
    assert str(tmp_path) in fails(capsys, "train", *lists, "--config", str(tmp_path))
    raw = ["--input_dir", str(raw_dir), "--output_dir", str(tmp_path / "lists")]
    assert str(tmp_path) in fails(capsys, "preprocess", *raw, "--features", str(tmp_path))
    assert str(tmp_path) in fails(capsys, "rerank", "--server", "localhost:1", "--input", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder(capsys, tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    out = ["--output_dir", str(tmp_path / "out")]
    assert str(path) in fails(capsys, "train", "--lists_dir", str(path), *out)
    assert str(path) in fails(capsys, "preprocess", "--input_dir", str(path), *out)
    assert str(path) in fails(capsys, "build-lists", "--input_dir", str(path), *out)
    assert str(path) in fails(capsys, "evaluate", "--run_dir", str(path), "--lists_dir", str(path))
    assert str(path) in fails(capsys, "simulate", "--output_dir", str(path))
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "text"


def test_a_folder_of_something_else_is_not_replaced(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "'thesis.tex'" in fails(capsys, "simulate", "--output_dir", str(tmp_path), "--lists", "20")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "option", [("--server", ""), ("--server", "localhost"), ("--top", "0"), ("--top", "-1")]
)
def test_rerank_refuses_what_it_cannot_ask(capsys, tmp_path, option):
    (tmp_path / "lists.jsonl").write_text("")
    options = {"--server": "localhost:1", "--input": str(tmp_path / "lists.jsonl"), **dict([option])}
    assert option[0] in fails(capsys, "rerank", *(text for pair in options.items() for text in pair))


def test_rerank_says_once_why_every_list_is_in_the_initial_order(capsys, tmp_path):
    request = {"user_id": "u", "time": 1, "candidates": [{"item_id": "a", "initial_score": 0.5}]}
    path = tmp_path / "lists.jsonl"
    path.write_text(f"{json.dumps(request)}\n" * 3)
    assert cli.main(["rerank", "--server", "127.0.0.1:1", "--input", str(path)]) == 1
    written = capsys.readouterr()
    assert [json.loads(line)["source"] for line in written.out.splitlines()] == ["initial_order"] * 3
    why, summary = written.err.splitlines()
    assert why.startswith("the initial order is returned: UNAVAILABLE: ")
    assert "3 of them in the initial order; 0 failed" in summary
