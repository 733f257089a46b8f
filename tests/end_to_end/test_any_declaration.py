"""Logs whose declaration lacks some part go through every step, and so does the Open Bandit sample."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from psad_tf.beam.pipeline import preprocess
from psad_tf.cli.main import main
from psad_tf.config import DataConfig
from psad_tf.evaluation.evaluate import evaluate_run
from psad_tf.export.parity import check_parity
from psad_tf.export.saved_model import export_saved_model
from psad_tf.features import load_declaration
from psad_tf.training.trainer import train
from tests import own_logs, tiny

pytestmark = pytest.mark.slow
EVERY_PART = {
    "model": {"user_profile": {"target_attention": True, "history_match": True, "relative_features": True}}
}


def through_every_step(raw: pathlib.Path, root: pathlib.Path, data: DataConfig) -> None:
    lists, run = root / "lists", root / "run"
    preprocess(str(raw), str(lists), load_declaration(raw / "features.json"))
    config = tiny.smallest(slots=3, data=data, epochs=1).changed(EVERY_PART)
    trained = train(lists, run, config, verbose=False)
    for metrics in (trained.metrics, evaluate_run(run, lists, "test").means()):
        assert all(np.isfinite(value) for value in metrics["student"].values())
    exported = export_saved_model(run, root / "serving", lists_dir=lists)
    parity = check_parity(run, exported, lists, n=8)
    assert parity.passed and parity.lists > 0


@pytest.mark.parametrize(
    ("context", "dense", "histories"),
    [(True, False, True), (False, True, False), (False, False, False)],
    ids=["no_dense", "no_context_no_history", "items_alone"],
)
def test_a_declaration_without_some_part_trains_evaluates_and_exports(tmp_path, context, dense, histories):
    declared = own_logs.declaration(context, dense)
    lengths = [3 + index % 3 for index in range(50)]
    raw = own_logs.write(tmp_path / "raw", lengths, declared, histories)
    through_every_step(raw, tmp_path, DataConfig(batch_size=8))


def test_the_open_bandit_sample_goes_through_every_step(tmp_path):
    raw = tmp_path / "raw"
    built = ["build-lists", "--dataset", "open-bandit-sample", "--policy", "random", "--output_dir", str(raw)]
    assert main([*built, "--gap_seconds", "36000"]) == 0
    with open(raw / "impressions.jsonl", encoding="utf-8") as file:
        assert len([json.loads(line) for line in file]) > 100
    through_every_step(raw, tmp_path, DataConfig(batch_size=128, list_sizes=(20,)))
