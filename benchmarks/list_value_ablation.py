"""What each part of PSAD gives in list value: python -m benchmarks.list_value_ablation

Trains the preset `interactions` with one part changed at a time on the logs of the world of that name, and
asks the click law what the lists of teacher and student are worth, over the greedy oracle's. Writes to
--output_dir

    list_value_ablation.json  {variant: {"student", "teacher": {"mean", "std", "seeds"}, "seconds" of the
                              processor, "<model>_against_full": a test paired by list}}
    list_value_ablation.md    the same as a table

Finished runs are kept in --work_dir; `--minutes` starts none after so many.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
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
from benchmarks.list_value import ORACLES, config_of
from benchmarks.list_value_runs import Runs, Setting, add_run_options
from psad_tf.config import TrainConfig
from psad_tf.datasets.simulator import SimulatorConfig
from psad_tf.errors import InputError
from psad_tf.files import write_json

FULL = "all parts"
WORLD = "interactions"


def _profile(**changes: bool) -> dict[str, Any]:
    return {"model": {"user_profile": changes}}


def _teacher(**changes: Any) -> dict[str, Any]:
    return {"model": {"teacher": changes}}


def _student(**changes: Any) -> dict[str, Any]:
    return {"model": {"student": changes}}


# Changes of the preset's configuration.
VARIANTS: dict[str, Mapping[str, Any]] = {
    FULL: {},
    "teacher imitates the labels' order": {"loss": {"value_weight": 0.0, "policy_weight": 1.0}},
    "policy loss beside the value": {"loss": {"policy_weight": 1.0}},
    "without the pair term": _teacher(pair_term=False),
    "K = 3": _teacher(block_size=3),
    "K = 3, without the pair term": _teacher(block_size=3, pair_term=False),
    "without slot bias": _teacher(position_bias="none"),
    "student on labels alone": {"distillation": {"source": "none"}, "loss": {"listwise_weight": 1.0}},
    "student on labels and lists": {"loss": {"listwise_weight": 1.0}},
    "distilling the policy": {"distillation": {"source": "forced"}, "loss": {"policy_weight": 1.0}},
    "teacher first, then the student": {"distillation": {"mode": "offline"}},
    "student without context": _student(context="none"),
    "context: mean and maximum": _student(context="mean_max"),
    "context: self-attention": _student(context="self_attention"),
    "context: one round": _student(rounds=1),
    "context: three rounds": _student(rounds=3),
    "context: eight heads": _student(context_heads=8),
    "gradients of the student reach the profile": _student(stop_gradient=False),
    "without personalized gates": _profile(personalized_gates=False),
    "without personalized positions": _profile(personalized_positions=False),
    "without target attention": _profile(target_attention=False),
    "without history match": _profile(history_match=False),
    "without relative features": _profile(relative_features=False),
    "with Cross": _profile(cross=True),
}
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--lists", type=int, default=100_000, help="lists logged")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds of each variant")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *EXPLORED], help="only these")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after these; 0 for no limit")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trains what is not trained yet, and writes the results after each variant."""
    if options.lists < 1 or min(options.seeds) < 1:
        raise InputError("lists and seeds: must be at least 1")
    os.makedirs(options.output_dir, exist_ok=True)
    path = os.path.join(options.output_dir, "list_value_ablation.json")
    runs = Runs(options.work_dir, not options.no_xla)
    names = [n for n in (*VARIANTS, *EXPLORED) if options.variants is None or n in (FULL, *options.variants)]
    started, full, left = time.monotonic(), None, 0
    for name in names:
        if 0.0 < options.minutes * 60.0 <= time.monotonic() - started:
            left += 1
            continue
        values, seconds = _values(runs, options.lists, name, options.seeds)
        full = values if name == FULL else full
        greedy = values.pop("greedy")
        facts: dict[str, Any] = {"lists": options.lists, "seconds": seconds}
        for model, each in values.items():
            facts[model] = summarize([float(value.sum() / greedy[0].sum()) for value in each])
            # Another log has other test lists: nothing to pair.
            if full is not None and full is not values and name not in EXPLORED:
                facts[f"{model}_against_full"] = paired_test(np.mean(each, 0), np.mean(full[model], 0))
        write_json(path, {**read_json(path, {}), name: facts})
        shares = ", ".join(f"{model} {facts[model]['mean']:.4f}" for model in values)
        print(f"{name}: {shares}  ({seconds:.0f} s)", flush=True)
    text = table(read_json(path, {}))
    write_text(os.path.join(options.output_dir, "list_value_ablation.md"), text)
    print(text)
    if left:
        print(f"the time is up: {left} variants are left for the next time")
    print(f"in {options.output_dir}")


def _values(
    runs: Runs, lists: int, name: str, seeds: Sequence[int]
) -> tuple[dict[str, list[np.ndarray]], float]:
    """The true value of each test list by model, an array per seed, and the mean seconds of a run."""
    setting = Setting(WORLD, lists, "all")
    if name in EXPLORED:
        setting = ExploredSetting(WORLD, lists, "all", EXPLORED[name])
    greedy = runs.values(runs.oracles(setting), ORACLES["greedy_oracle"])
    records = []
    for seed in seeds:
        config = config_of(runs, setting, "student", seed)
        assert isinstance(config, TrainConfig)
        records.append(runs.psad(setting, config.changed(VARIANTS.get(name, {}))))
    values = {
        model: [runs.values(record, model).astype(np.float64) for record in records]
        for model in ("student", "teacher")
    }
    return {**values, "greedy": [greedy.astype(np.float64)]}, float(np.mean([r["seconds"] for r in records]))


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    rows = []
    for name in (*VARIANTS, *EXPLORED):
        if name not in found:
            continue
        facts = found[name]
        cells = [name]
        for model in ("student", "teacher"):
            spread = f" ± {facts[model]['std']:.4f}" if len(facts[model]["seeds"]) > 1 else ""
            cells.append(f"{facts[model]['mean']:.4f}{spread}")
            tested = facts.get(f"{model}_against_full")
            cells.append("" if tested is None else f"{tested['p']:.1g}")
        rows.append([*cells, f"{facts['seconds']:.0f}"])
    lists = ", ".join(sorted({f"{facts['lists']:,}" for facts in found.values()}))
    header = ["changed", "student", "p", "teacher", "p", "CPU seconds"]
    return (
        f"# Ablation in list value: world `{WORLD}`, {lists} lists, all shown\n\n"
        "Shares of the greedy oracle's expected clicks on the first 6 slots; p of the difference from all "
        f"parts, paired by list.\n\n{markdown_table(header, rows)}"
    )


if __name__ == "__main__":
    main()
