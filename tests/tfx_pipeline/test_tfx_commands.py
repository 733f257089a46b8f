"""The commands' errors: one line and exit code 2, before anything slow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from psad_tf.cli.main import main
from psad_tf.cli.tfx import find_declaration
from psad_tf.errors import InputError


def fails(capsys, *arguments: object) -> str:
    assert main([str(each) for each in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("psad: "), error
    return error


@pytest.mark.parametrize(
    "command", [["tfx", "--input_dir", "x", "--output_dir", "y"], ["lineage", "--metadata", "x"]]
)
def test_without_tfx_one_line_says_what_to_install(capsys, monkeypatch, command):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tfx" else found(name))
    assert "'tfx' is not installed: the pipeline needs requirements-dev.txt" in fails(capsys, *command)


def test_help_imports_neither_tfx_nor_tensorflow():
    code = (
        "import sys, psad_tf.cli.main as c; c.build_parser().format_help();"
        "sys.exit(bool({'tfx', 'tensorflow', 'ml_metadata', 'apache_beam'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_raw_folder(capsys, tmp_path):
    pytest.importorskip("tfx")
    error = fails(capsys, "tfx", "--input_dir", tmp_path / "no", "--output_dir", tmp_path / "out")
    assert "features.json: no such file" in error and not (tmp_path / "out").exists()


def test_a_missing_metadata_store(capsys, tmp_path):
    pytest.importorskip("tfx")
    assert "no such metadata store" in fails(capsys, "lineage", "--metadata", tmp_path / "no.sqlite")


def test_a_file_that_is_no_metadata_store(capsys, tmp_path):
    pytest.importorskip("tfx")
    (tmp_path / "metadata.sqlite").write_text("not a database")
    assert "is not a metadata store" in fails(capsys, "lineage", "--metadata", tmp_path / "metadata.sqlite")


def test_the_declaration_of_the_latest_span_is_found(tmp_path):
    for span in (2, 10):
        (tmp_path / f"span-{span}").mkdir()
        (tmp_path / f"span-{span}" / "features.json").write_text("{}")
    assert find_declaration(str(tmp_path), "span-{SPAN}/*").endswith("span-10/features.json")
    with pytest.raises(InputError, match="--features"):
        find_declaration(str(tmp_path), "*")


def test_compiling_for_kubeflow_says_which_package_it_needs(capsys, tmp_path):
    pytest.importorskip("tfx")
    if importlib.util.find_spec("kfp") is not None:
        pytest.skip("kfp-pipeline-spec is installed")
    error = fails(
        capsys,
        "tfx",
        "--input_dir",
        tmp_path,
        "--output_dir",
        tmp_path / "out",
        "--kubeflow",
        tmp_path / "job",
    )
    assert "kfp-pipeline-spec" in error
