"""`psad fetch-data`, `build-lists` and `simulate`: what they make, and one line for a mistake."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from psad_tf.cli.main import main


def _simulate(folder: pathlib.Path, *options: str) -> int:
    return main(["simulate", "--output_dir", str(folder), "--lists", "30", "--candidates", "4", *options])


def test_simulate_says_what_it_made_and_where(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _simulate(tmp_path / "raw", "--items", "50") == 0
    said = capsys.readouterr().out
    assert "simulated 30 lists (50 items," in said and str(tmp_path / "raw") in said
    with open(tmp_path / "raw" / "impressions.jsonl", encoding="utf-8") as file:
        assert [len(json.loads(line)["candidates"]) for line in file] == [4] * 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lists", "3"], "lists: must be at least 10, got 3"),
        (["--items", "2"], "items: 2 items cannot fill lists of 4 candidates"),
        (["--workers", "0"], "workers: must be at least 1, got 0"),
        (["--lists", "many"], "argument --lists: invalid int value: 'many'"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    try:
        code = _simulate(tmp_path / "raw", *options)
    except SystemExit as stop:
        code = int(stop.code or 0)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert _simulate(tmp_path / "file" / "raw") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_small_simulation_imports_no_tensorflow(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys; from psad_tf.cli.main import main; "
        f"main(['simulate', '--lists', '30', '--output_dir', {str(tmp_path / 'raw')!r}]); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("dataset", ["kuairand", "avito", "librerank-ad", "librerank-prm"])
def test_a_data_set_that_is_not_downloaded_asks_for_its_folder(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    assert main(["build-lists", "--dataset", dataset, "--output_dir", str(tmp_path / "raw")]) == 2
    assert capsys.readouterr().err == (
        f"psad: {dataset}: --input_dir is needed (docs/data.md says where its files come from)\n"
    )


def test_build_lists_measures_the_initial_order_a_split_at_a_time(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {"train": [0, 1], "valid": [0, 0], "test": [1, 0]}
    for split, labels in lists.items():
        (tmp_path / f"data.{split}").write_text(f"1\t[5]\t[[7], [8]]\t[[], []]\t{labels}\n")
    arguments = ["--dataset", "librerank-ad", "--input_dir", str(tmp_path)]
    assert main(["build-lists", *arguments, "--output_dir", str(tmp_path / "raw")]) == 0
    said = capsys.readouterr().out
    assert "train: 1 lists, 1 with a relevant item; initial order NDCG@10 0.6309 over these" in said
    assert "valid: 1 lists, 0 with a relevant item\n" in said
    assert "test: 1 lists, 1 with a relevant item; initial order NDCG@10 1.0000 over these" in said
    assert "built librerank-ad: 3 lists (2 interactions, 1 users, 2 items)" in said


def test_fetch_data_without_an_index_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert main(["fetch-data", "--cache_dir", str(tmp_path / "cache")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("psad: recbole==1.2.1: pip could not download it")
