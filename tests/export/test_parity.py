from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Sequence

import pytest

from psad_tf.cli.main import main
from psad_tf.errors import InputError
from psad_tf.evaluation.served import compare_over_grpc
from psad_tf.export import parity
from psad_tf.export.parity import check_parity
from psad_tf.export.saved_model import export_saved_model
from psad_tf.serving.contract import RERANK_EXAMPLES, RERANK_MASKED, SERVING_DEFAULT
from tests.export.tiny_run import SIZES, make_run

pytestmark = pytest.mark.slow


def test_an_export_agrees_with_its_run(
    tiny_run: pathlib.Path, exported: pathlib.Path, tiny_lists: pathlib.Path
) -> None:
    found = check_parity(tiny_run, exported, tiny_lists)
    assert found.passed and found.lists == len(SIZES)
    assert set(found.same_order.values()) == {1.0}
    assert found.ndcg_at_10 == pytest.approx(found.ndcg_at_10_in_process)


def test_large_scores_may_differ_by_more(tmp_path: pathlib.Path, tiny_lists: pathlib.Path) -> None:
    run = make_run(tmp_path / "run", gain=1e3)
    version = export_saved_model(run, tmp_path)
    found = check_parity(run, version, tiny_lists)
    assert found.max_abs_score > 100
    assert 1e-5 < max(found.max_abs_diff.values()) < 1e-5 * found.max_abs_score
    assert found.passed
    served = compare_over_grpc(run, version, tiny_lists)
    assert served.max_abs_score == pytest.approx(found.max_abs_score)
    assert served.max_abs_diff <= 1e-5 * served.max_abs_score


@pytest.mark.parametrize("name", [SERVING_DEFAULT, RERANK_EXAMPLES, RERANK_MASKED])
def test_scores_that_are_no_numbers_do_not_pass(
    tiny_run: pathlib.Path,
    exported: pathlib.Path,
    tiny_lists: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    caller = parity._caller

    def spoilt(signature: object, of: str, declaration: object) -> Callable[[Sequence[bytes]], dict]:
        def call(lists: Sequence[bytes]) -> dict:
            answer = dict(caller(signature, of, declaration)(lists))
            return answer | ({"scores": answer["scores"] * float("nan")} if of == name else {})

        return call

    monkeypatch.setattr(parity, "_caller", spoilt)
    assert not check_parity(tiny_run, exported, tiny_lists).passed


def test_the_command_fails_when_the_export_is_of_other_weights(
    tmp_path: pathlib.Path,
    tiny_run: pathlib.Path,
    tiny_lists: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = export_saved_model(make_run(tmp_path / "run", seed=2), tmp_path)
    options = ["--run_dir", str(tiny_run), "--model_dir", other, "--lists_dir", str(tiny_lists)]
    assert main(["check-parity", *options]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert main(["check-parity", *options, "--tolerance", "100"]) == 0


def test_served_answers_equal_the_model_in_process(
    tiny_run: pathlib.Path, exported: pathlib.Path, tiny_lists: pathlib.Path
) -> None:
    found = compare_over_grpc(tiny_run, exported, tiny_lists)
    assert found.requests == len(SIZES) == found.same_order
    assert found.max_abs_diff <= 1e-5 * found.max_abs_score
    assert {name: len(items) for name, items in found.rankings.items()} == {
        f"r{seed}": candidates for seed, candidates, _ in SIZES
    }


def test_a_folder_without_lists_is_named(
    tiny_run: pathlib.Path, exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match="no such folder of lists"):
        check_parity(tiny_run, exported, tmp_path / "nothing")


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"n": -3}, {"tolerance": -1e-5}, {"tolerance": float("nan")}], ids=str
)
def test_impossible_numbers_are_refused(
    tiny_run: pathlib.Path, exported: pathlib.Path, tiny_lists: pathlib.Path, wrong: dict[str, float]
) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        check_parity(tiny_run, exported, tiny_lists, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_export_is_named(
    tiny_run: pathlib.Path,
    exported: pathlib.Path,
    tiny_lists: pathlib.Path,
    tmp_path: pathlib.Path,
    name: str,
) -> None:
    copy = pathlib.Path(shutil.copytree(exported, tmp_path / "1"))
    (copy / name).write_bytes((copy / name).read_bytes()[:20])
    with pytest.raises(InputError, match=f"{copy}: is damaged"):
        check_parity(tiny_run, copy, tiny_lists)


def test_the_export_command_says_what_it_made(
    tiny_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--run_dir", str(tiny_run), "--base_dir", str(tmp_path)]) == 0
    assert str(tmp_path / "psad" / "1") in capsys.readouterr().out
    assert main(["export", "--run_dir", str(tiny_run), "--base_dir", str(tmp_path), "--version", "1"]) == 2
    error = capsys.readouterr().err
    assert "already there" in error and "Traceback" not in error
