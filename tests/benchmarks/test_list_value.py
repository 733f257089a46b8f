"""The benchmark of true list value: its layout, its resumption, and the comparison with estimates."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import bench_ablation, list_value, list_value_runs, list_value_trust
from benchmarks.common import fingerprint
from benchmarks.list_value_runs import Runs, Setting
from psad_tf.baselines import NEURAL_BASELINES
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SETTINGS = (Setting("interactions", 800, "all"), Setting("interactions", 800, "6"))


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> str:
    """Where finished runs are kept, so that tests that need the same do not train it again."""
    return str(tmp_path_factory.mktemp("work"))


@pytest.fixture
def small(monkeypatch, tmp_path, work_dir):
    """A plan of two small logs and a small model."""
    config = {
        "model": {"embedding_dim": 8, "teacher": {"num_heads": 2, "feed_forward_dim": 16, "block_size": 1}},
        "data": {"batch_size": 64},
        "epochs": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(list_value, "PRESET_FILE", str(tmp_path / "config.json"))
    monkeypatch.setattr(list_value, "SEARCH_FILE", str(tmp_path / "search.json"))
    monkeypatch.setattr(list_value, "PLAN", tuple((setting, (1,)) for setting in SETTINGS))
    return ["--no_xla", "--output_dir", str(tmp_path / "out"), "--work_dir", work_dir]


@pytest.fixture
def short(small, monkeypatch):
    """The same with two slots, the less to trace."""
    for module in (list_value, list_value_runs, list_value_trust):
        monkeypatch.setattr(module, "SLOTS", 2)
    return small


def test_a_run_that_was_stopped_goes_on_and_its_results_have_the_layout(small, tmp_path, monkeypatch, capsys):
    models = ["greedy_oracle", "pointwise", "student", "teacher_k1"]
    list_value.main([*small, "--models", *models, "--minutes", "0.000001"])
    assert "runs are left" in capsys.readouterr().out
    list_value.main([*small, "--models", *models])
    found = json.loads((tmp_path / "out" / "list_value.json").read_text())
    assert set(found["interactions"]["800"]) == {"all", "6"}
    for of_models in found["interactions"]["800"].values():
        assert set(of_models) == set(models)
        assert of_models["greedy_oracle"]["mean"] == 1.0
        for facts in of_models.values():
            assert 0.3 < facts["mean"] <= 1.0 and len(facts["seeds"]) == 1
    significance = json.loads((tmp_path / "out" / "list_value_significance.json").read_text())
    assert significance["interactions"]["800"]["6"]["pointwise"]["lists"] == 80
    assert (tmp_path / "out" / "list_value.png").stat().st_size > 1000

    def trained_again(*arguments: object) -> None:
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(Runs, "_fit", trained_again)
    list_value.main([*small, "--models", *models])


def test_estimates_are_compared_with_the_truth(short, tmp_path):
    list_value_trust.main([*short, "--lists", "800", "--rankers", "pointwise", "student"])
    facts = json.loads((tmp_path / "out" / "list_value_trust.json").read_text())
    assert set(facts["rankers"]) == {*list_value_trust.ORACLES, "pointwise", "student"}
    assert -1.0 <= facts["rank_correlation"] <= 1.0 and np.isfinite(facts["bias"])
    assert facts["rankers"]["greedy"]["true"] > facts["rankers"]["random"]["true"]


def test_every_wanted_model_is_planned_and_oracles_once():
    options = list_value.argparse.Namespace(worlds=None, lists=None, shown=None, models=None, seeds=None)
    planned = list(list_value.planned(options))
    assert {model for _, model, _ in planned} == set(list_value.SHOWN_ORDER)
    assert len(planned) == len(set(planned))
    assert all(seed == 1 for _, model, seed in planned if model in list_value.ORACLES)


def test_the_ablation_compares_each_variant_with_all_parts(small, tmp_path):
    variant, out = "student without context", tmp_path / "out"
    bench_ablation.main([*small, "--data", "interactions", "--lists", "800", "--variants", variant])
    found = json.loads((out / "ablation.json").read_text())["interactions, 800 lists"]
    assert set(found) == {bench_ablation.FULL, variant}
    assert found[variant]["student"] != found[bench_ablation.FULL]["student"]
    assert found[variant]["student_against_full"]["lists"] == 80
    assert variant in (out / "ablation.md").read_text()


def test_dlcm_and_seq2slate_are_the_recurrent_baselines():
    for name, kind in NEURAL_BASELINES.items():
        model = kind(tiny.DECLARATION, tiny.SIZES, tiny.config())
        assert list_value_runs.is_recurrent(model) == (name in ("dlcm", "seq2slate")), name


def test_logs_with_another_share_of_random_lists_are_another_setting():
    explored = bench_ablation.ExploredSetting("interactions", 800, "all", 1.0)
    assert explored.config.explore == 1.0 != SETTINGS[0].config.explore
    assert fingerprint(explored) != fingerprint(SETTINGS[0])
