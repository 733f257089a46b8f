"""The examples and the README run as written, each on what the one before it made; so does the tutorial."""

from __future__ import annotations

import pathlib
import re
import runpy
import sys

import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_declare_train_and_serve(tmp_path, monkeypatch, capsys):
    raw, work = str(tmp_path / "raw"), tmp_path / "work"
    run("custom_features.py", "--output_dir", raw, "--lists", "300", monkeypatch=monkeypatch)
    options = ("--input_dir", raw, "--output_dir", str(work), "--epochs", "1")
    run("train_on_own_logs.py", *options, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "student" in said and "SavedModel" in said
    base = str(work / "serving" / "psad")
    run("serve_and_call.py", "--model_base_path", base, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "answered by: model" in said and said.count("score") == 3 and "i9" not in said


def test_the_readmes_python(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    assert code.count("\n") <= 15
    monkeypatch.chdir(tmp_path)
    exec(code.replace("2_000", "300"), {})
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert loaded.config.model.teacher.slots == 6


@pytest.mark.process
def test_the_tutorial(tmp_path):
    import nbclient  # a second of every collection otherwise
    import nbformat

    notebook = nbformat.read(EXAMPLES / "tutorial.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # the tutorial's size is for a reader who waits a few minutes
            cell.source = cell.source.replace("lists=40_000", "lists=1_500")
    client = nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if output
    )
    assert "student" in printed and "greedy" in printed


def test_the_tutorial_is_committed_as_it_ran():
    import nbformat

    notebook = nbformat.read(EXAMPLES / "tutorial.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
