"""How far estimated list values can be trusted: python -m benchmarks.list_value_trust

Trains rankers on the lists of one half of a simulated world's users and an evaluator (a teacher of K = 1,
from another seed) on the other half's, lets the evaluator value the first 6 slots of every ranker's test
lists, and compares with their true value. Writes to --output_dir

    list_value_trust.json  {"rankers": {ranker: {"estimated", "true"}}, "rank_correlation", "order_errors",
                           "bias"}
    list_value_trust.md    the same as a table

`bias` is the mean over rankers of (estimated - true) / true. Finished rankers are kept in --work_dir.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from benchmarks.common import markdown_table, one_line_errors, write_text
from benchmarks.list_value import BASELINES, PLAN, config_of
from benchmarks.list_value_runs import EVALUATED, SLOTS, Runs, Setting, add_run_options
from psad_tf.config import TrainConfig
from psad_tf.datasets.simulator.oracles import ORACLES, true_values
from psad_tf.files import write_json

RANKERS = (*(name for name in BASELINES if name != "lambdamart"), "student", "teacher_k1", "teacher_k3")
EVALUATOR_SEED = 101


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--lists", type=int, default=100_000, help="lists logged, half of them to each side")
    parser.add_argument("--shown", choices=["all", "6"], default="6", help="how many candidates a list shows")
    parser.add_argument("--rankers", nargs="+", choices=RANKERS, default=RANKERS, help="which to train")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trains rankers and evaluator, and compares estimates with the truth."""
    os.makedirs(options.output_dir, exist_ok=True)
    setting = Setting(PLAN[0][0].world, options.lists, options.shown)
    runs = Runs(options.work_dir, not options.no_xla)
    orders = rankings(runs, setting, options.rankers)
    estimated = estimates(runs, setting, orders)
    source = runs.source(setting)
    lists = source.lists["test"]
    users = source.world.users_numbered(lists.user[:EVALUATED])
    items = lists.items[:EVALUATED].astype(np.int64)
    rankers = {
        name: {
            "estimated": float(estimated[name].mean()),
            "true": float(true_values(source.world, users, items, order.astype(np.int64)).mean()),
        }
        for name, order in orders.items()
    }
    facts = {"rankers": rankers, **agreement(rankers)}
    write_json(os.path.join(options.output_dir, "list_value_trust.json"), facts)
    rows = [
        [name, f"{each['estimated']:.4f}", f"{each['true']:.4f}", f"{each['estimated'] - each['true']:+.4f}"]
        for name, each in sorted(rankers.items(), key=lambda each: each[1]["true"])
    ]
    text = (
        f"# Estimated and true value of lists: {setting}\n\n"
        f"{markdown_table(['ranker', 'estimated', 'true', 'error'], rows)}\n\n"
        f"Rank correlation {facts['rank_correlation']:.3f}; pairs in the wrong order "
        f"{facts['order_errors']}; bias {facts['bias']:+.1%}."
    )
    write_text(os.path.join(options.output_dir, "list_value_trust.md"), text)
    print(text)
    print(f"in {options.output_dir}")


def rankings(runs: Runs, setting: Setting, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The first slots of each ranker's test lists, int [lists, SLOTS], the untrained ones' among them."""
    source = runs.source(setting)
    lists = source.lists["test"]
    users = source.world.users_numbered(lists.user[:EVALUATED])
    items = lists.items[:EVALUATED].astype(np.int64)
    orders = {name: np.asarray(oracle(source.world, users, items, SLOTS)) for name, oracle in ORACLES.items()}
    for name in names:
        config = of_users(config_of(runs, setting, name, 1), "odd")
        psad = name == "student" or name.startswith("teacher")
        record = runs.psad(setting, config) if psad else runs.baseline(name, setting, config)
        model = "teacher" if name.startswith("teacher") else name
        orders[name] = runs.values(record, f"{model}_order")
        print(f"{name} is trained", flush=True)
    return orders


def of_users(config: object, users: str) -> TrainConfig:
    """The configuration for one half of the users; an epoch has half the steps."""
    assert isinstance(config, TrainConfig)
    optimizer = dataclasses.replace(config.optimizer, decay_steps=config.optimizer.decay_steps // 2)
    return dataclasses.replace(
        config,
        optimizer=optimizer,
        data=dataclasses.replace(config.data, users=users),  # type: ignore[arg-type]
    )


def estimates(runs: Runs, setting: Setting, orders: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The evaluator's value of each list: {ranker: float [lists]}."""
    config = of_users(config_of(runs, setting, "teacher_k1", EVALUATOR_SEED), "even")
    model = runs.trained_psad(setting, config)
    source = runs.source(setting)
    everyone = dataclasses.replace(config.data, users="all")
    batches = source.dataset("test", everyone).batches()
    signature = [batches.element_spec, tf.TensorSpec([None, SLOTS], tf.int32)]
    value = tf.function(model.list_value, input_signature=signature)
    found: dict[str, list[np.ndarray]] = {name: [] for name in orders}
    done = 0
    for batch in batches:
        rows = slice(done, done + len(batch["mask"]))
        done = rows.stop
        if done > len(next(iter(orders.values()))):
            break
        for name, order in orders.items():
            found[name].append(value(batch, tf.constant(order[rows].astype(np.int32))).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def agreement(rankers: dict[str, dict[str, float]]) -> dict[str, float]:
    """How the estimates order the rankers and how far they are off.

    >>> facts = agreement({"a": {"estimated": 1.1, "true": 1.0}, "b": {"estimated": 2.2, "true": 2.0}})
    >>> round(facts["bias"], 3), facts["order_errors"]
    (0.1, 0)
    """
    estimated, true = (np.array([each[key] for each in rankers.values()]) for key in ("estimated", "true"))
    places = estimated.argsort().argsort(), true.argsort().argsort()
    pairs = itertools.combinations(range(len(true)), 2)
    wrong = sum((estimated[i] - estimated[j]) * (true[i] - true[j]) < 0 for i, j in pairs)
    return {
        "rank_correlation": float(np.corrcoef(places)[0, 1]),
        "order_errors": int(wrong),
        "bias": float(((estimated - true) / true).mean()),
    }


if __name__ == "__main__":
    main()
