"""What each part of PSAD gives: python -m benchmarks.bench_ablation

Trains the preset of a source with one part changed at a time and writes to --output_dir

    ablation.json  {source: {variant: {"student", "teacher": {"mean", "std", "seeds"},
                   "<model>_against_full": a test paired by list, "seconds" of a run's training}}}
    ablation.md    the same as tables

The sources are the simulated world `interactions` with --lists lists, where the value is the true value of
the first slots over the greedy oracle's (benchmarks/list_value.py), and `movielens-100k`, where it is NDCG@10
on the test lists (benchmarks/bench_quality.py). Each number of lists and of seeds is a section of its own.
Finished runs are kept in --work_dir and shared with those two; `--minutes` starts none after so many.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.bench_quality import psad_config_of, runner_of
from benchmarks.common import (
    MOVIELENS,
    ResultStore,
    markdown_table,
    mean_and_spread,
    merged,
    one_line_errors,
    paired_test,
    read_json,
    summarize,
    write_text,
)
from benchmarks.list_value import ORACLES, config_of
from benchmarks.list_value_runs import Runs, Setting, add_run_options
from psad_tf.config import TrainConfig
from psad_tf.datasets.simulator import SimulatorConfig
from psad_tf.errors import InputError
from psad_tf.files import write_json

FULL = "all parts"
INTERACTIONS = "interactions"
PARTS = ("student", "teacher")


def _profile(**changes: bool) -> dict[str, Any]:
    return {"model": {"user_profile": changes}}


def _teacher(**changes: Any) -> dict[str, Any]:
    return {"model": {"teacher": changes}}


def _student(**changes: Any) -> dict[str, Any]:
    return {"model": {"student": changes}}


# Changes of a preset's configuration.
_SHARED: dict[str, Mapping[str, Any]] = {
    "without slot bias": _teacher(position_bias="none"),
    "student on labels alone": {"distillation": {"source": "none"}, "loss": {"listwise_weight": 1.0}},
    "teacher first, then the student": {"distillation": {"mode": "offline"}},
    "student without context": _student(context="none"),
    "context: mean and maximum": _student(context="mean_max"),
    "context: self-attention": _student(context="self_attention"),
    "context: one round": _student(rounds=1),
    "context: three rounds": _student(rounds=3),
    "without personalized gates": _profile(personalized_gates=False),
    "without personalized positions": _profile(personalized_positions=False),
    "without target attention": _profile(target_attention=False),
    "without history match": _profile(history_match=False),
    "without relative features": _profile(relative_features=False),
    "without these three": _profile(target_attention=False, history_match=False, relative_features=False),
    "with Cross": _profile(cross=True),
}
VARIANTS: dict[str, dict[str, Mapping[str, Any]]] = {
    INTERACTIONS: {
        FULL: {},
        "teacher imitates the labels' order": {"loss": {"value_weight": 0.0, "policy_weight": 1.0}},
        "policy loss beside the value": {"loss": {"policy_weight": 1.0}},
        "K = 3": _teacher(block_size=3),
        "K = 3, without the pair term": _teacher(block_size=3, pair_term=False),
        "student on labels and lists": {"loss": {"listwise_weight": 1.0}},
        "distilling the policy": {"distillation": {"source": "forced"}, "loss": {"policy_weight": 1.0}},
        "gradients of the student reach the profile": _student(stop_gradient=False),
        **_SHARED,
    },
    MOVIELENS: {
        FULL: {},
        "value alone, distilling generated lists": {
            "loss": {"policy_weight": 0.0},
            "distillation": {"source": "generated"},
        },
        "policy alone": {"loss": {"value_weight": 0.0}},
        "distilling generated lists": {"distillation": {"source": "generated"}},
        "K = 1": _teacher(block_size=1),
        "K = 20": _teacher(block_size=20),
        "without the pair term": _teacher(pair_term=False),
        "gradients of the student stop at the profile": _student(stop_gradient=True),
        **_SHARED,
    },
}
# Shares of random lists in the simulated logs, the preset's being 0.1.
EXPLORED = {"no random lists logged": 0.0, "all logged lists random": 1.0}


@dataclasses.dataclass(frozen=True)
class ExploredSetting(Setting):
    """A world's logs with another share of random lists.

    Args:
        explore: The share.
    """

    explore: float = 0.1

    @property
    def config(self) -> SimulatorConfig:
        """The simulator's configuration."""
        return dataclasses.replace(super().config, explore=self.explore)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A variant's seeds.

    Attributes:
        values: {model: [the value of each test list, an array per seed]}; NaN where a list has none.
        scale: What the mean of the values is divided by.
        seconds: Mean training time of a run.
    """

    values: Mapping[str, Sequence[np.ndarray]]
    scale: float
    seconds: float

    def facts(self, full: Measured | None) -> dict[str, Any]:
        """JSON-ready facts; compared with `full` where that has the same lists."""
        facts: dict[str, Any] = {"seconds": round(self.seconds, 1)}
        for model, each in self.values.items():
            facts[model] = summarize([float(np.nanmean(value)) / self.scale for value in each])
            if full is not None:
                tested = paired_test(np.mean(each, 0), np.mean(full.values[model], 0))
                facts[f"{model}_against_full"] = tested
        return facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    names = list(dict.fromkeys([name for each in VARIANTS.values() for name in each] + list(EXPLORED)))
    parser.add_argument("--data", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="sources")
    parser.add_argument("--variants", nargs="+", choices=names, help="only these")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each variant")
    parser.add_argument("--lists", type=int, default=100_000, help="lists logged in the simulated world")
    parser.add_argument("--lists_dir", default="", help="MovieLens lists that are already there")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after these; 0 for no limit")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trains what is not trained yet, and writes the results after each variant."""
    if options.seeds < 1 or options.lists < 1:
        raise InputError("seeds, lists: must be at least 1")
    os.makedirs(options.output_dir, exist_ok=True)
    path = os.path.join(options.output_dir, "ablation.json")
    started, left = time.monotonic(), 0
    for data in options.data:
        measure = (_in_list_value if data == INTERACTIONS else _in_ndcg)(options)
        full: Measured | None = None
        section = f"{data}, {options.lists:,} lists" if data == INTERACTIONS else data
        section += f", {options.seeds} seeds" if options.seeds > 1 else ""
        for name in [*VARIANTS[data], *(EXPLORED if data == INTERACTIONS else ())]:
            if options.variants is not None and name not in (FULL, *options.variants):
                continue
            if 0.0 < options.minutes * 60.0 <= time.monotonic() - started:
                left += 1
                continue
            measured = measure(name)
            # Another log has other test lists: nothing to pair.
            facts = measured.facts(None if name in EXPLORED else full)
            full = measured if name == FULL else full
            write_json(path, merged(read_json(path, {}), {section: {name: facts}}))
            shares = ", ".join(f"{part} {facts[part]['mean']:.4f}" for part in PARTS)
            print(f"{section}: {name}: {shares}", flush=True)
    text = report(read_json(path, {}))
    write_text(os.path.join(options.output_dir, "ablation.md"), text)
    print(text)
    if left:
        print(f"the time is up: {left} variants are left for the next time")
    print(f"wrote {path} and ablation.md")


def _in_list_value(options: argparse.Namespace) -> Callable[[str], Measured]:
    runs = Runs(options.work_dir, not options.no_xla)

    def measure(name: str) -> Measured:
        setting = Setting(INTERACTIONS, options.lists, "all")
        if name in EXPLORED:
            setting = ExploredSetting(INTERACTIONS, options.lists, "all", EXPLORED[name])
        greedy = runs.values(runs.oracles(setting), ORACLES["greedy_oracle"]).astype(np.float64)
        records = []
        for seed in range(1, options.seeds + 1):
            config = config_of(runs, setting, "student", seed)
            assert isinstance(config, TrainConfig)
            records.append(runs.psad(setting, config.changed(VARIANTS[INTERACTIONS].get(name, {}))))
        values = {part: [runs.values(each, part).astype(np.float64) for each in records] for part in PARTS}
        return Measured(values, float(greedy.mean()), _mean_seconds(records))

    return measure


def _in_ndcg(options: argparse.Namespace) -> Callable[[str], Measured]:
    store = ResultStore(os.path.join(options.work_dir, "results.jsonl"))
    runner = runner_of(MOVIELENS, options.work_dir, options.lists_dir, store)

    def measure(name: str) -> Measured:
        records = []
        for seed in range(1, options.seeds + 1):
            config = psad_config_of(MOVIELENS, "student", seed, runner)
            records.append(runner.psad(config.changed(VARIANTS[MOVIELENS][name])))
        values = {part: [np.array(each["per_list"][part], np.float64) for each in records] for part in PARTS}
        return Measured(values, 1.0, _mean_seconds(records))

    return measure


def _mean_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([each["seconds"] for each in records]))


def report(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The results as Markdown."""
    parts = ["# Ablation", ""]
    parts += ["One part changed at a time; p of the difference from all parts, paired by list. Made by"]
    parts += ["`python -m benchmarks.bench_ablation`.", ""]
    said = {
        INTERACTIONS: "True list value: shares of the greedy oracle's expected clicks on the first slots.",
        MOVIELENS: "NDCG@10 on the test lists.",
    }
    header = ["changed", "student", "p", "teacher", "p", "seconds", "seeds"]
    for section, variants in sorted(found.items()):
        data = section.partition(",")[0]
        rows = [_row(name, variants[name]) for name in (*VARIANTS[data], *EXPLORED) if name in variants]
        parts += [f"## {section}", "", said[data], "", markdown_table(header, rows), ""]
    return "\n".join(parts)


def _row(name: str, facts: Mapping[str, Any]) -> list[str]:
    cells = [name]
    for part in PARTS:
        tested = facts.get(f"{part}_against_full")
        cells += [mean_and_spread(facts[part]), "" if tested is None else f"{tested['p']:.1g}"]
    return [*cells, f"{facts['seconds']:.0f}", str(len(facts[PARTS[0]]["seeds"]))]


if __name__ == "__main__":
    main()
