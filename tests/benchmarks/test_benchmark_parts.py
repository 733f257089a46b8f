"""The benchmarks' own arithmetic and bookkeeping."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tensorflow as tf

import psad_tf
from benchmarks import bench_ablation, bench_latency, bench_quality, list_value
from benchmarks.common import ResultStore, code_fingerprint, fingerprint, merged, paired_test, summarize
from psad_tf.config import TrainConfig, load_train_config


def test_a_finished_result_is_not_made_again_even_by_a_new_process(tmp_path):
    path = str(tmp_path / "results.jsonl")
    made = []
    for _ in range(2):
        store = ResultStore(path)
        assert store.result({"model": "a", "config": TrainConfig()}, lambda: made.append(1) or 7) == 7
    assert made == [1]


def test_a_line_cut_short_is_made_again_and_the_others_are_kept(tmp_path):
    path = str(tmp_path / "results.jsonl")
    ResultStore(path).result("one", lambda: 1)
    ResultStore(path).result("two", lambda: 2)
    with open(path, "r+") as file:
        file.truncate(os.path.getsize(path) - 5)
    store = ResultStore(path)
    assert store.find("one") == 1 and store.find("two") is None


def test_a_result_appended_after_a_line_cut_short_can_be_read_back(tmp_path):
    path = str(tmp_path / "results.jsonl")
    ResultStore(path).result("one", lambda: 1)
    with open(path, "a") as file:
        file.write('{"key": "x", "resul')
    ResultStore(path).result("two", lambda: 2)
    assert ResultStore(path).find("two") == 2


def test_another_seed_is_another_result():
    assert fingerprint(TrainConfig(seed=1)) != fingerprint(TrainConfig(seed=2))
    assert fingerprint(TrainConfig(seed=1)) == fingerprint(TrainConfig(seed=1))


def test_code_is_told_apart_by_what_it_computes_and_not_by_its_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(psad_tf, "__file__", str(tmp_path / "__init__.py"))

    def of(text: str) -> str:
        (tmp_path / "model.py").write_text(text)
        return code_fingerprint(["*.py"])

    plain = of("def f(x):\n    return x + 1\n")
    assert of('def f(x):\n    """Adds one."""\n    return x + 1  # one\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain


def test_the_summary_of_seeds_has_the_sample_deviation():
    assert summarize([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "seeds": [1.0, 3.0]}
    assert summarize([1.0])["std"] == 0.0


def test_equal_models_are_not_significantly_different_and_nan_lists_are_left_out():
    random = np.random.default_rng(0)
    one = random.random(200)
    other = one + 0.1 * random.standard_normal(200)
    other[:10] = np.nan
    facts = paired_test(one, other)
    assert facts["lists"] == 190
    assert facts["low"] < 0.0 < facts["high"] and facts["p"] > 0.05
    assert paired_test(one, one - 0.05)["p"] < 0.001


def test_merging_keeps_models_and_data_sets_that_are_not_new():
    old = {"a": {"x": 1, "y": 2}, "b": {"z": 3}}
    assert merged(old, {"a": {"y": 5}, "c": {"w": 6}}) == {
        "a": {"x": 1, "y": 5},
        "b": {"z": 3},
        "c": {"w": 6},
    }


@pytest.mark.parametrize("data", bench_ablation.VARIANTS)
def test_every_variant_changes_its_presets_configuration(data):
    path = list_value.PRESET_FILE if data == bench_ablation.INTERACTIONS else bench_quality.PSAD_CONFIGS[data]
    base = load_train_config(path)
    changed = [base.changed(each) for each in bench_ablation.VARIANTS[data].values()]
    assert changed[0] == base and len({fingerprint(each) for each in changed}) == len(changed)


@pytest.mark.parametrize("bench", [bench_quality, bench_ablation, bench_latency])
def test_an_impossible_option_is_one_line_and_exit_code_2(bench, tmp_path, capsys):
    option = "--slots" if bench is bench_latency else "--seeds"
    with pytest.raises(SystemExit) as stopped:
        bench.main([option, "0", "--output_dir", str(tmp_path), "--work_dir", str(tmp_path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "at least 1" in error and error.count("\n") == 1


def test_the_report_names_the_models_and_the_seeds(tmp_path, capsys):
    metrics = dict.fromkeys(("ndcg@5", "ndcg@10", "map@5", "map@10", "mrr", "auc"), 0.5)
    results = {"movielens-100k": {"prm": {name: summarize([value, 0.6]) for name, value in metrics.items()}}}
    (tmp_path / "quality.json").write_text(json.dumps(results))
    bench_quality._report(str(tmp_path))
    text = (tmp_path / "quality.md").read_text()
    assert "| prm   |" in text and "0.5500 ± 0.0707" in text


def test_the_served_model_takes_at_most_four_mflop_for_a_list_of_fifty():
    from benchmarks.timing import mflop, random_batch
    from psad_tf.datasets.movielens import DECLARATION
    from psad_tf.models.student import Reranker

    sizes = {vocabulary: 1_000 for vocabulary in DECLARATION.vocabularies}
    reranker = Reranker(DECLARATION, sizes, TrainConfig().model)
    batch = random_batch(DECLARATION, sizes, 1, 50)
    served = tf.function(lambda each: reranker(each)).get_concrete_function(batch)
    assert 1.0 < mflop(served.graph) <= 4.0


def test_operations_of_a_matrix_product_are_counted():
    from benchmarks.timing import mflop

    spec = tf.TensorSpec([100, 200], tf.float32)
    product = tf.function(lambda each: each @ tf.ones([200, 50])).get_concrete_function(spec)
    assert mflop(product.graph) == 2.0
