"""The command line: one clear line and exit code 2 for what a tired person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from psad_tf import cli


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
    code = "import sys, psad_tf.cli as c; c.build_parser([]); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    error = fails(capsys, "evaluate", "--run_dir", str(tmp_path / "no"), "--lists_dir", str(lists_dir))
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
    from psad_tf.input_pipeline import load_manifest

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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line(capsys, tmp_path, monkeypatch):
    from psad_tf.errors import InputError
    from psad_tf.files import replaced_directory

    target = tmp_path / "out"
    with pytest.raises(InputError, match="the disk is full"), replaced_directory(target):
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_output_under_a_file_is_one_line(capsys, tmp_path, raw_dir):
    (tmp_path / "file").write_text("")
    arguments = ["--input_dir", str(raw_dir), "--output_dir", str(tmp_path / "file" / "lists")]
    assert "cannot be written" in fails(capsys, "preprocess", *arguments)
