"""True list value of PSAD and the baselines on simulated worlds: python -m benchmarks.list_value

Trains every model on the logs of a world and asks the world's click law what its lists are worth: the
expected clicks on the first 6 slots over those of the greedy oracle's lists. Writes to --output_dir

    list_value.json               {world: {lists: {"all" or "6": {model: {"mean", "std", "seeds"}}}}}
    list_value_significance.json  the student against every other model, paired by list
    list_value.md                 both as tables, with training times
    list_value.png                the models side by side

The runs that tell most come first. Every finished run is kept in --work_dir, so a run that was stopped, or
that `--minutes` ended, resumes where it was. `--search` chooses each trained model's learning rate and
dropout, the same number of trials for each, on validation logs alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.common import (
    markdown_table,
    one_line_errors,
    paired_test,
    read_json,
    summarize,
    write_text,
)
from benchmarks.list_value_runs import SLOTS, Runs, Setting, add_run_options
from psad_tf.baselines.lambdamart import LambdaMARTConfig
from psad_tf.config import TrainConfig, load_train_config
from psad_tf.files import write_json

ORACLES = {
    "random": "random",
    "initial": "initial",
    "pointwise_oracle": "pointwise",
    "greedy_oracle": "greedy",
    "beam_oracle": "beam",
}
BASELINES = (
    *("pointwise", "pointwise_debiased", "prm", "setrank", "dlcm", "nar4rec", "seq2slate", "lambdamart"),
)
BLOCK_SIZES = (1, 3, 2, 6)
TEACHERS = {f"teacher_k{size}": size for size in BLOCK_SIZES}
MODELS = (*ORACLES, "student", "teacher_k1", *BASELINES, "teacher_k3", "teacher_k2", "teacher_k6")
# Order of the tables.
SHOWN_ORDER = (
    *("random", "initial", "lambdamart", "pointwise", "pointwise_debiased", "dlcm", "prm", "setrank"),
    *("seq2slate", "nar4rec", "student", "teacher_k1", "teacher_k2", "teacher_k3", "teacher_k6"),
    *("pointwise_oracle", "greedy_oracle", "beam_oracle"),
)
# (setting, seeds) in the order in which they tell something.
PLAN: tuple[tuple[Setting, tuple[int, ...]], ...] = (
    (Setting("interactions", 100_000, "all"), (1,)),
    (Setting("interactions", 100_000, "6"), (1,)),
    (Setting("interactions", 400_000, "all"), (1,)),
    (Setting("independent", 100_000, "all"), (1,)),
    (Setting("interactions", 400_000, "6"), (1,)),
    (Setting("interactions", 100_000, "all"), (2, 3)),
    (Setting("interactions", 400_000, "all"), (2, 3)),
    (Setting("independent", 100_000, "all"), (2, 3)),
    (Setting("interactions", 100_000, "6"), (2, 3)),
    (Setting("interactions", 400_000, "6"), (2, 3)),
    (Setting("interactions", 1_000_000, "all"), (1,)),
    (Setting("interactions", 1_000_000, "6"), (1,)),
)
SEARCH_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "list_value_search.json")
# (learning rate, dropout rate) for networks; (leaves, learning rate) for trees.
SEARCH = ((2e-3, 0.0), (1e-3, 0.0), (4e-3, 0.0), (2e-3, 0.1))
LAMBDAMART_SEARCH = ((31, 0.1), (31, 0.05), (63, 0.1), (15, 0.1))
PRESET_FILE = os.path.join("configs", "interactions.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--worlds", nargs="+", choices=sorted({each.world for each, _ in PLAN}))
    parser.add_argument("--lists", nargs="+", type=int, help="only these numbers of lists")
    parser.add_argument("--shown", nargs="+", choices=["all", "6"], help="only these")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after these; 0 for no limit")
    parser.add_argument("--search", action="store_true", help="choose settings on validation logs first")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trains what is not trained yet, as long as there is time, and writes the results."""
    os.makedirs(options.output_dir, exist_ok=True)
    runs = Runs(options.work_dir, not options.no_xla)
    started = time.monotonic()

    def time_is_up() -> bool:
        return 0.0 < options.minutes * 60.0 <= time.monotonic() - started

    if options.search:
        names = [name for name in options.models or MODELS if name in (*BASELINES, "student")]
        search(runs, names, time_is_up)
    results = Results(options.output_dir, runs)
    left = 0
    for setting, model, seed in planned(options):
        if time_is_up():
            left += 1
            continue
        print(f"{setting}: {model}, seed {seed}", flush=True)
        results.add(setting, model, seed)
    results.finish()
    if left:
        print(f"the time is up: {left} runs are left for the next time")


def planned(options: argparse.Namespace) -> Iterator[tuple[Setting, str, int]]:
    """(setting, model, seed) of every run that the options ask for, in order."""
    for setting, seeds in PLAN:
        if options.worlds and setting.world not in options.worlds:
            continue
        if (options.lists and setting.lists not in options.lists) or (
            options.shown and setting.shown not in options.shown
        ):
            continue
        for model in MODELS:
            if options.models and model not in options.models:
                continue
            for seed in seeds:
                if options.seeds and seed not in options.seeds:
                    continue
                if model not in ORACLES or seed == 1:
                    yield setting, model, seed


def config_of(runs: Runs, setting: Setting, model: str, seed: int) -> TrainConfig | LambdaMARTConfig:
    """A model's configuration: the preset's sizes and the settings that the search chose.

    All networks have the optimizer, batches, epochs and patience of PSAD's preset, and the rate falls to 0
    over as many steps as the epochs have.
    """
    chosen = read_json(SEARCH_FILE, {})
    name = "student" if model in TEACHERS else model
    if model == "lambdamart":
        return _trees(*chosen.get(name, {}).get("chosen", LAMBDAMART_SEARCH[0]), seed=seed)
    base = load_train_config(PRESET_FILE)
    block_size = TEACHERS.get(model, base.model.teacher.block_size)
    teacher = dataclasses.replace(base.model.teacher, slots=SLOTS, block_size=block_size)
    config = dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, teacher=teacher),
        data=dataclasses.replace(base.data, list_sizes=(setting.config.candidates,)),
        seed=seed,
    )
    if name in chosen:
        config = _tuned(config, *chosen[name]["chosen"])
    steps = runs.steps(setting, config.data.batch_size) * config.epochs
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, decay_steps=steps))


def _tuned(config: TrainConfig, learning_rate: float, dropout_rate: float) -> TrainConfig:
    ratio = config.optimizer.embedding_learning_rate / config.optimizer.learning_rate
    optimizer = dataclasses.replace(
        config.optimizer, learning_rate=learning_rate, embedding_learning_rate=learning_rate * ratio
    )
    model = dataclasses.replace(config.model, dropout_rate=dropout_rate)
    return dataclasses.replace(config, optimizer=optimizer, model=model)


def _trees(leaves: int, learning_rate: float, *, seed: int) -> LambdaMARTConfig:
    return LambdaMARTConfig(
        num_leaves=leaves,
        learning_rate=learning_rate,
        min_data_in_leaf=100,
        num_iterations=400,
        early_stopping_round=20,
        num_threads=2,
        seed=seed,
    )


def search(runs: Runs, names: Sequence[str], time_is_up: Any) -> None:
    """Tries every point of the search space on 10^5 lists, all shown, with seed 1, by validation loss."""
    setting = PLAN[0][0]
    for name in names:
        trials = []
        for trial in LAMBDAMART_SEARCH if name == "lambdamart" else SEARCH:
            if time_is_up():
                return
            if name == "lambdamart":
                record = runs.baseline(name, setting, _trees(*trial, seed=1), test=False)
            else:
                config = config_of(runs, setting, name, 1)
                assert isinstance(config, TrainConfig)
                config = _tuned(config, *trial)
                record = (
                    runs.psad(setting, config, test=False)
                    if name == "student"
                    else runs.baseline(name, setting, config, test=False)
                )
            trials.append({"settings": trial, "validation loss": record["valid"]})
            print(f"{name}: validation loss {record['valid']:.5f} with {trial}", flush=True)
        best = min(trials, key=lambda each: each["validation loss"])
        found = read_json(SEARCH_FILE, {})
        write_json(SEARCH_FILE, {**found, name: {"chosen": best["settings"], "trials": trials}})


class Results:
    """The values of the finished runs, written after each."""

    def __init__(self, output_dir: str, runs: Runs) -> None:
        self.output_dir, self.runs = output_dir, runs
        self._values: dict[tuple[Setting, str], dict[int, np.ndarray]] = {}
        self._seconds: dict[tuple[Setting, str], list[float]] = {}

    def add(self, setting: Setting, model: str, seed: int) -> None:
        """Makes, or finds, a run's record and takes its values."""
        runs = self.runs
        oracles = runs.oracles(setting)
        if model in ORACLES:
            self._take(setting, model, seed, runs.values(oracles, ORACLES[model]), 0.0)
            return
        config = config_of(runs, setting, model, seed)
        if model == "student" or model in TEACHERS:
            assert isinstance(config, TrainConfig)
            record = runs.psad(setting, config)
            values = runs.values(record, "student" if model == "student" else "teacher")
        else:
            record = runs.baseline(model, setting, config)
            values = runs.values(record, model)
        self._take(setting, model, seed, values, record["seconds"])

    def _take(self, setting: Setting, model: str, seed: int, values: np.ndarray, seconds: float) -> None:
        greedy = self.runs.values(self.runs.oracles(setting), ORACLES["greedy_oracle"]).sum(dtype=np.float64)
        self._values.setdefault((setting, model), {})[seed] = values
        self._seconds.setdefault((setting, model), []).append(seconds)
        seeds = self._values[setting, model]
        shares = [float(each.sum(dtype=np.float64) / greedy) for _, each in sorted(seeds.items())]
        print(f"  {model} {shares[-1]:.4f}  ({seconds:.0f} s)", flush=True)
        path = os.path.join(self.output_dir, "list_value.json")
        found = read_json(path, {})
        of_lists = found.setdefault(setting.world, {}).setdefault(str(setting.lists), {})
        of_lists.setdefault(setting.shown, {})[model] = summarize(shares)
        write_json(path, found)

    def finish(self) -> None:
        """Writes significance, tables and picture of the runs that were asked for."""
        from benchmarks.list_value_report import draw, tables

        significance = read_json(os.path.join(self.output_dir, "list_value_significance.json"), {})
        for setting, model in self._values:
            student = self._values.get((setting, "student"))
            if model == "student" or not student:
                continue
            facts = self._against(student, self._values[setting, model])
            of_lists = significance.setdefault(setting.world, {}).setdefault(str(setting.lists), {})
            of_lists.setdefault(setting.shown, {})[model] = facts
        write_json(os.path.join(self.output_dir, "list_value_significance.json"), significance)
        found = read_json(os.path.join(self.output_dir, "list_value.json"), {})
        text = tables(found, significance, SHOWN_ORDER)
        seconds = [
            [str(each), model, f"{np.mean(times):.0f}"]
            for (each, model), times in self._seconds.items()
            if model not in ORACLES
        ]
        if seconds:
            text += "\n\n## CPU seconds of training and validation on the machine that ran it\n\n"
            text += markdown_table(["logs", "model", "CPU seconds"], seconds)
        write_text(os.path.join(self.output_dir, "list_value.md"), text)
        draw(found, os.path.join(self.output_dir, "list_value.png"), SHOWN_ORDER)
        print(text)
        print(f"in {self.output_dir}")

    def _against(self, student: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> dict[str, float]:
        """The student's lists against another model's, each list's value being the mean of the seeds."""
        mean = [np.mean([each for _, each in sorted(seeds.items())], axis=0) for seeds in (student, other)]
        return paired_test(*mean)


if __name__ == "__main__":
    main()
