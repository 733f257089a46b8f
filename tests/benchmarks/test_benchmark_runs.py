"""One training run of each kind on generated lists."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from benchmarks.common import ResultStore
from benchmarks.runs import SEARCH, Runner, baseline_base
from benchmarks.timing import compiled_call, interleaved, random_batch, statistics
from psad_tf.baselines.lambdamart import LambdaMARTConfig
from psad_tf.config import DataConfig, EmbeddingConfig, ModelConfig, TeacherConfig, TrainConfig
from tests import tiny


def small(config: TrainConfig) -> TrainConfig:
    teacher = TeacherConfig(slots=8, block_size=8, num_heads=2, feed_forward_dim=16)
    model = ModelConfig(embedding_dim=8, embedding=EmbeddingConfig(), teacher=teacher)
    data = DataConfig(batch_size=32, list_sizes=(8,))
    return dataclasses.replace(config, model=model, data=data, epochs=1, jit_compile=False)


@pytest.fixture(scope="module")
def runner(lists_dir, tmp_path_factory) -> Runner:
    work = tmp_path_factory.mktemp("bench")
    return Runner(str(lists_dir), ResultStore(str(work / "results.jsonl")), str(work), list_size=8)


@pytest.mark.slow
def test_records_of_every_kind_have_the_same_test_lists_and_a_whole_run_is_not_trained_again(runner):
    baseline = runner.neural("pointwise", small(baseline_base(8)))
    trees = runner.lambdamart(LambdaMARTConfig(num_iterations=5, min_data_in_leaf=5))
    psad = runner.psad(small(TrainConfig()))
    initial = runner.untrained()
    missing = [value is None for value in initial["per_list"]["initial"]]
    for record, part in ((baseline, "model"), (trees, "model"), (psad, "student"), (psad, "teacher")):
        assert [value is None for value in record["per_list"][part]] == missing
        values = [value for value in record["per_list"][part] if value is not None]
        assert record["metrics"][part]["ndcg@10"] == pytest.approx(np.mean(values), abs=1e-5)
    trained = os.stat(psad["run_dir"]).st_mtime_ns
    again = runner._train_psad(small(TrainConfig()), True)
    assert {**again, "seconds": 0.0} == {**psad, "seconds": 0.0}
    assert os.stat(psad["run_dir"]).st_mtime_ns == trained


@pytest.mark.slow
def test_a_search_does_not_look_at_the_test_lists(runner):
    record = runner.neural(
        "pointwise", SEARCH[0].config(small(baseline_base(8)), runner.training_lists), test=False
    )
    assert set(record["valid"]) == {"model"} and not {"metrics", "per_list"} & set(record)


def test_calls_are_timed_in_turn_and_compared_with_the_reference():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = interleaved(calls, 5)
    assert len(order) == 14 and all(set(order[i : i + 2]) == {"a", "b"} for i in range(4, 14, 2))
    facts = statistics({"a": np.array([1.0, 1.0]), "b": np.array([3.0, 3.0])}, "a")
    assert facts["b"]["median_ratio"] == 3.0 and facts["a"]["median_ms"] == 1000.0
    assert all(len(seconds) == 5 for seconds in times.values())


@pytest.mark.slow
def test_a_compiled_call_gives_what_the_model_gives():
    batch = random_batch(tiny.DECLARATION, tiny.SIZES, 2, 5)
    model = tiny.model()
    call = compiled_call(model, lambda each: model.reranker(each)["scores"], batch)
    np.testing.assert_allclose(call(), model.reranker(batch)["scores"], rtol=1e-4, atol=1e-4)
