"""Ranking quality of PSAD and the baselines: python -m benchmarks.bench_quality

Trains every model for every seed on MovieLens-100K, the Open Bandit sample and, with --kuairand_dir,
KuaiRand, tests them, and writes to --output_dir

    quality.json               {data set: {model: {metric: {"mean", "std", "seeds"}}}}
    quality_significance.json  paired tests of student and teacher against the best baseline
    quality_by_history.json    {data set: [{"min_history", "max_history", "lists", "ndcg@10": {model: mean}}]}
    quality.md                 all as tables

Every finished (model, seed) is kept in runs/bench/results.jsonl, so a run that was stopped resumes.
Hyperparameters of the baselines come from quality_search.json, which `--search` makes from the validation
lists alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import (
    KUAIRAND,
    MOVIELENS,
    OPEN_BANDIT,
    RESULTS_DIR,
    WORK_DIR,
    ResultStore,
    markdown_table,
    mean_and_spread,
    merged,
    one_line_errors,
    paired_test,
    public_lists,
    read_json,
    summarize,
    write_text,
)
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import SELECTION_METRIC, history_groups
from psad_tf.files import write_json
from psad_tf.metrics import METRICS

SEARCH_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "quality_search.json")
PSAD_CONFIGS = {
    MOVIELENS: os.path.join("configs", "movielens.json"),
    # Not tuned on these: what was chosen on MovieLens' validation lists.
    OPEN_BANDIT: os.path.join("configs", "movielens.json"),
    KUAIRAND: os.path.join("configs", "movielens.json"),
}
BASELINE_NAMES = ("lambdamart", "pointwise", "dlcm", "prm", "setrank", "seq2slate", "nar4rec")
MODELS = {
    MOVIELENS: ("initial", *BASELINE_NAMES, "teacher_k1", "teacher_k5", "teacher_k20", "student"),
    OPEN_BANDIT: ("initial", *BASELINE_NAMES, "teacher_k1", "teacher_k5", "student"),
    KUAIRAND: ("initial", *BASELINE_NAMES, "teacher_k1", "teacher_k5", "student"),
}
INITIAL = "initial"
LIST_VALUE = "list_value"  # true value of lists on simulated worlds: benchmarks/list_value.py


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each model")
    parser.add_argument("--models", nargs="+", default=None, help="only these")
    parser.add_argument(
        "--data",
        nargs="+",
        choices=[*MODELS, LIST_VALUE],
        default=[name for name in MODELS if name != KUAIRAND],
        help="data sets",
    )
    parser.add_argument("--kuairand_dir", default="", help="KuaiRand's data folder, for --data kuairand")
    parser.add_argument("--lists_dir", default="", help="MovieLens lists that are already there")
    parser.add_argument("--output_dir", default=RESULTS_DIR, help="folder of the results")
    parser.add_argument("--work_dir", default=WORK_DIR, help="folder of data, runs and finished results")
    parser.add_argument("--search", action="store_true", help="search hyperparameters on validation lists")
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trains what is not trained yet, and writes the results."""
    if options.seeds < 1:
        raise InputError(f"seeds: must be at least 1, got {options.seeds}")
    os.makedirs(options.output_dir, exist_ok=True)
    store = ResultStore(os.path.join(options.work_dir, "results.jsonl"))
    path = os.path.join(options.output_dir, "quality.json")
    if LIST_VALUE in options.data:
        from benchmarks import list_value

        list_value.main(["--output_dir", options.output_dir, "--work_dir", options.work_dir])
    for data in (name for name in options.data if name != LIST_VALUE):
        names = [name for name in MODELS[data] if options.models is None or name in options.models]
        if not names:
            continue
        if data == KUAIRAND and not options.kuairand_dir:
            raise InputError(
                "kuairand: --kuairand_dir is needed (docs/data.md says where its files come from)"
            )
        runner = runner_of(data, options.work_dir, options.lists_dir, store, options.kuairand_dir)
        if options.search:
            search(data, [name for name in names if name in BASELINE_NAMES], runner)
        collected: dict[str, list[dict[str, Any]]] = {}
        for name in names:
            seeds = range(1, 2 if name == INITIAL else options.seeds + 1)
            collected[name] = [_announced(data, name, seed, runner) for seed in seeds]
            write_json(path, merged(read_json(path, {}), {data: {name: _summary(collected[name])}}))
        _significance(options.output_dir, data, collected)
        _by_history(options.output_dir, data, collected, runner)
    _report(options.output_dir)


def runner_of(data: str, work_dir: str, lists_dir: str, store: ResultStore, input_dir: str = "") -> Any:
    """The runner of a data set; its lists are made when they are not there."""
    from benchmarks.runs import Runner

    made = lists_dir if data == MOVIELENS and lists_dir else public_lists(data, work_dir, input_dir)
    return Runner(made, store, work_dir)


def search(data: str, names: Sequence[str], runner: Any) -> None:
    """Tries every point of the search space on the validation lists, with seed 1, and keeps all values."""
    from benchmarks.runs import LAMBDAMART, LAMBDAMART_SEARCH, SEARCH, baseline_base
    from psad_tf.baselines.lambdamart import LambdaMARTConfig

    found = read_json(SEARCH_FILE, {})
    for name in names:
        trials = []
        for trial in LAMBDAMART_SEARCH if name == LAMBDAMART else SEARCH:
            if isinstance(trial, LambdaMARTConfig):
                quality = runner.lambdamart(trial, test=False)["valid"]["model"]
            else:
                config = trial.config(baseline_base(runner.list_size), runner.training_lists)
                quality = runner.neural(name, config, test=False)["valid"]["model"]
            trials.append({"settings": dataclasses.asdict(trial), "valid ndcg@10": quality})
            print(f"{data} {name}: validation NDCG@10 {quality:.4f} with {trial}", flush=True)
        best = max(trials, key=lambda each: each["valid ndcg@10"])
        found = merged(found, {data: {name: {"chosen": best["settings"], "trials": trials}}})
        write_json(SEARCH_FILE, found)


def _announced(data: str, name: str, seed: int, runner: Any) -> dict[str, Any]:
    metrics = record_of(data, name, seed, runner)
    print(f"{data} {name} seed {seed}: test NDCG@10 {metrics['metrics']['ndcg@10']:.4f}", flush=True)
    return metrics


def record_of(data: str, name: str, seed: int, runner: Any) -> dict[str, Any]:
    """{"metrics": ..., "per_list": ...} of one model and seed on the test lists."""
    from benchmarks.runs import LAMBDAMART, LambdaMARTConfig, Trial, baseline_base

    part = "model"
    if name == INITIAL:
        record, part = runner.untrained(), name
    elif name in BASELINE_NAMES:
        settings = _chosen(data, name, runner)
        if name == LAMBDAMART:
            record = runner.lambdamart(dataclasses.replace(LambdaMARTConfig(**settings), seed=seed))
        else:
            config = Trial(**settings).config(baseline_base(runner.list_size), runner.training_lists)
            record = runner.neural(name, dataclasses.replace(config, seed=seed))
    else:
        record, part = runner.psad(psad_config_of(data, name, seed, runner)), name.split("_")[0]
    return {"metrics": record["metrics"][part], "per_list": record["per_list"][part]}


def psad_config_of(data: str, name: str, seed: int, runner: Any) -> Any:
    """The configuration behind `student` (the data set's preset) or `teacher_k<K>`."""
    from benchmarks.runs import psad_config, with_block_size

    config = dataclasses.replace(psad_config(PSAD_CONFIGS[data]), seed=seed)
    return config if name == "student" else with_block_size(config, int(name.removeprefix("teacher_k")))


def _chosen(data: str, name: str, runner: Any) -> dict[str, Any]:
    """The settings that the search chose; searches when it has not yet."""
    if name not in read_json(SEARCH_FILE, {}).get(data, {}):
        search(data, [name], runner)
    return read_json(SEARCH_FILE, {})[data][name]["chosen"]


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    metrics = records[0]["metrics"]
    return {metric: summarize([record["metrics"][metric] for record in records]) for metric in metrics}


def _per_list(records: Sequence[dict[str, Any]]) -> np.ndarray:
    """NDCG@10 of each list, the mean over seeds."""
    return np.mean([np.array(record["per_list"], np.float64) for record in records], axis=0)


def _significance(output_dir: str, data: str, collected: dict[str, list[dict[str, Any]]]) -> None:
    """Tests student and teacher against the baseline of the highest mean, where both are there."""
    present = [name for name in BASELINE_NAMES if name in collected]
    if not present:
        return
    values = {name: _per_list(records) for name, records in collected.items()}
    best = max(present, key=lambda name: float(np.nanmean(values[name])))
    tests = {
        name: {"against": best, **paired_test(each, values[best])}
        for name, each in values.items()
        if name == "student" or name.startswith("teacher")
    }
    if tests:
        path = os.path.join(output_dir, "quality_significance.json")
        write_json(path, {**read_json(path, {}), data: tests})


def _by_history(
    output_dir: str, data: str, collected: Mapping[str, list[dict[str, Any]]], runner: Any
) -> None:
    """NDCG@10 of each model by how much of a user's history it saw."""
    values = {name: _per_list(records) for name, records in collected.items()}
    groups = [
        {
            **facts,
            SELECTION_METRIC: {name: float(np.nanmean(each[chosen])) for name, each in values.items()},
        }
        for facts, chosen in history_groups(runner.history_lengths())
    ]
    path = os.path.join(output_dir, "quality_by_history.json")
    write_json(path, {**read_json(path, {}), data: groups})


def _report(output_dir: str) -> None:
    results = read_json(os.path.join(output_dir, "quality.json"), {})
    tests = read_json(os.path.join(output_dir, "quality_significance.json"), {})
    histories = read_json(os.path.join(output_dir, "quality_by_history.json"), {})
    parts = ["# Ranking quality", "", "Test lists; mean ± standard deviation over seeds. Made by"]
    parts += ["`python -m benchmarks.bench_quality`.", ""]
    for data, order in MODELS.items():
        models = {name: results[data][name] for name in order if name in results.get(data, {})}
        if not models:
            continue
        rows = [
            [name, *(mean_and_spread(metrics_of[metric]) for metric in METRICS), str(_seeds(metrics_of))]
            for name, metrics_of in models.items()
        ]
        titles = [metric.upper() for metric in METRICS]
        parts += [f"## {data}", "", markdown_table(["model", *titles, "seeds"], rows), ""]
        if data in tests:
            parts += [_test_table(tests[data]), ""]
        if data in histories:
            parts += [_history_table(histories[data], order), ""]
    text = "\n".join(parts)
    write_text(os.path.join(output_dir, "quality.md"), text)
    print(text)
    print(f"wrote {os.path.join(output_dir, 'quality.json')} and quality.md")


def _seeds(metrics: dict[str, Any]) -> int:
    return len(metrics["ndcg@10"]["seeds"])


def _test_table(tests: dict[str, Any]) -> str:
    rows = [
        [
            f"{name} - {facts['against']}",
            f"{facts['difference']:+.4f}",
            f"[{facts['low']:+.4f}, {facts['high']:+.4f}]",
            f"{facts['p']:.4f}",
            str(facts["lists"]),
        ]
        for name, facts in tests.items()
    ]
    return markdown_table(["NDCG@10, paired by list", "difference", "95% interval", "p", "lists"], rows)


def _history_table(groups: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    header = ["NDCG@10 by past interactions"]
    header += [f"{each['min_history']} to {each['max_history']}" for each in groups]
    rows = [["lists", *(str(each["lists"]) for each in groups)]]
    for name in order:
        if all(name in each[SELECTION_METRIC] for each in groups):
            rows.append([name, *(f"{each[SELECTION_METRIC][name]:.4f}" for each in groups)])
    return markdown_table(header, rows)


if __name__ == "__main__":
    main()
