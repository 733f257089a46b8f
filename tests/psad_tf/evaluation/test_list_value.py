"""The evaluator's value of lists, and that only an independent one is taken."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.cli.main import main
from psad_tf.config import DataConfig
from psad_tf.data.batches import ListDataset
from psad_tf.errors import InputError
from psad_tf.evaluation.list_value import (
    bootstrap_interval,
    check_evaluator,
    estimate_list_values,
    first_slots,
)
from psad_tf.training.run_folder import load_psad
from psad_tf.training.trainer import train
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def runs(lists_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A run on one half of the users and an evaluator on the other."""
    folder = tmp_path_factory.mktemp("runs")
    for name, users, seed in (("run", "odd", 1), ("evaluator", "even", 2)):
        data = DataConfig(batch_size=16, list_sizes=(8,), users=users)
        config = tiny.smallest(slots=4, epochs=1, seed=seed, data=data)
        train(lists_dir, folder / name, config, verbose=False)
    return {name: folder / name for name in ("run", "evaluator")}


def _copy_with(run: pathlib.Path, folder: pathlib.Path, **changes: object) -> pathlib.Path:
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config.update({key: {**config[key], **value} if isinstance(value, dict) else value})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_values_are_the_evaluators_and_not_the_models_own(runs, lists_dir):
    found = estimate_list_values(runs["run"], runs["evaluator"], lists_dir, "test", slots=3)
    encoder, model, config = load_psad(runs["run"])
    _, judge, _ = load_psad(runs["evaluator"])
    data = dataclasses.replace(config.data, users="all", batch_size=128)
    (batch,) = ListDataset(lists_dir, "test", encoder, data).batches()
    scores = model.rank(batch)
    for name in ("student", "teacher"):
        order = first_slots(scores[name], batch["mask"], 3)
        np.testing.assert_allclose(found.values[name], judge.list_value(batch, order), rtol=1e-4)
        assert not np.allclose(found.values[name], model.list_value(batch, order), rtol=1e-3)
    initial = tf.tile(tf.range(3)[tf.newaxis], [len(batch["mask"]), 1])
    np.testing.assert_allclose(found.values["initial"], judge.list_value(batch, initial), rtol=1e-4)


def test_the_command_writes_values_and_differences_with_intervals(runs, lists_dir, tmp_path, capsys):
    arguments = ["--run_dir", str(runs["run"]), "--lists_dir", str(lists_dir)]
    output = tmp_path / "values.json"
    judged = ["--list_value", str(runs["evaluator"]), "--output", str(output)]
    assert main(["evaluate", *arguments, *judged]) == 0
    report = json.loads(output.read_text())
    assert set(report["values"]) == {"initial", "student", "teacher"} and report["slots"] == 4
    for pair, facts in report["differences"].items():
        one, other = pair.split(" - ")
        assert facts["mean"] == pytest.approx(report["values"][one] - report["values"][other], abs=1e-6)
        assert facts["low"] <= facts["mean"] <= facts["high"]
    said = capsys.readouterr().out
    assert said.startswith("Ranking the test lists ...\n") and str(output) in said
    assert main(["evaluate", *arguments, "--list_value", str(runs["run"])]) == 2
    refused = capsys.readouterr()
    assert "is the run that it is to judge" in refused.err and not refused.out
    assert main(["evaluate", *arguments, "--slots", "3"]) == 2


def test_an_evaluator_that_is_not_independent_is_refused(runs, tmp_path):
    run, evaluator = runs["run"], runs["evaluator"]
    check_evaluator(run, evaluator)
    with pytest.raises(InputError, match="is the run that it is to judge"):
        check_evaluator(run, _copy_with(run, tmp_path / "copy", seed=7, data={"users": "even"}))
    with pytest.raises(InputError, match="has the seed"):
        check_evaluator(run, _copy_with(evaluator, tmp_path / "seed", seed=1))
    with pytest.raises(InputError, match="lists of the same users"):
        check_evaluator(run, _copy_with(evaluator, tmp_path / "users", data={"users": "all"}))


def test_more_slots_than_either_run_fills_are_refused(runs, lists_dir):
    with pytest.raises(InputError, match="slots: must be 1 to 4"):
        estimate_list_values(runs["run"], runs["evaluator"], lists_dir, "test", slots=5)


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(random.normal(0.5, 1.0, 200), seed)
        covered += low < 0.5 < high
    assert 88 <= covered <= 100
