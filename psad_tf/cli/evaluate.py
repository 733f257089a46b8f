"""psad evaluate: run folder and lists -> metrics."""

from __future__ import annotations

import argparse
import os

HELP = "evaluate initial order, teacher and student on one split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run_dir", required=True, help="folder that 'psad train' wrote")
    parser.add_argument("--lists_dir", required=True, help="folder that 'psad preprocess' wrote")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="lists to rank")
    parser.add_argument(
        "--list_value",
        metavar="RUN",
        help="estimate instead what the lists are worth, by the teacher of this other run, trained on other "
        "users' lists and from another seed",
    )
    parser.add_argument(
        "--slots", type=int, help="with --list_value: slots to value; left out: all that both runs fill"
    )
    parser.add_argument(
        "--by_history", action="store_true", help="also for groups of users by the length of their histories"
    )
    parser.add_argument(
        "--output",
        default="",
        help="JSON file; left out: RUN/evaluation_<split>.json or RUN/list_value_<split>.json",
    )
    parser.add_argument(
        "--convention",
        choices=("psad", "librerank"),
        default="psad",
        help="of MAP@k and of lists without a positive label: librerank's, to compare with its tables",
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluates, writes the values and prints them."""
    from psad_tf.errors import InputError

    if arguments.list_value and arguments.by_history:
        raise InputError("--by_history: does not go with --list_value")
    if arguments.slots is not None and not arguments.list_value:
        raise InputError("--slots: goes with --list_value")
    if arguments.list_value:
        _run_list_value(arguments)
    else:
        _run_metrics(arguments)


def _run_list_value(arguments: argparse.Namespace) -> None:
    from psad_tf.evaluation.list_value import estimate_list_values
    from psad_tf.files import write_json
    from psad_tf.training.devices import silence_xla

    silence_xla()
    report = estimate_list_values(
        arguments.run_dir,
        arguments.list_value,
        arguments.lists_dir,
        arguments.split,
        arguments.slots,
        verbose=True,
    ).report()
    path = arguments.output or os.path.join(arguments.run_dir, f"list_value_{arguments.split}.json")
    write_json(path, {"evaluator": os.path.basename(arguments.list_value.rstrip(os.sep)), **report})
    print(f"expected gain of the first {report['slots']} slots, mean of {report['lists']:,} lists:")
    for model, value in report["values"].items():
        print(f"  {model:20}{value:10.4f}")
    print("differences, with 95 % bootstrap intervals:")
    for pair, facts in report["differences"].items():
        print(f"  {pair:20}{facts['mean']:+10.4f}   {facts['low']:+.4f} to {facts['high']:+.4f}")
    print(f"Wrote {path}")


def _run_metrics(arguments: argparse.Namespace) -> None:
    from psad_tf.evaluation.evaluate import evaluate_run, worse_than_initial
    from psad_tf.files import write_json
    from psad_tf.metrics import METRICS
    from psad_tf.training.devices import silence_xla

    silence_xla()
    evaluation = evaluate_run(
        arguments.run_dir, arguments.lists_dir, arguments.split, arguments.convention, verbose=True
    )
    means = evaluation.means()
    path = arguments.output or os.path.join(arguments.run_dir, f"evaluation_{arguments.split}.json")
    groups = evaluation.by_history() if arguments.by_history else []
    write_json(path, {**means, "by_history": groups} if groups else means)
    print(format_table(means, METRICS))
    for group in groups:
        span = f"{group['min_history']} to {group['max_history']}"
        print(f"{group['lists']:,} lists with {span} past interactions:")
        print(format_table(group["means"], METRICS))
    if worse := worse_than_initial(means, arguments.split):
        print(worse)
    print(f"Wrote {path}")


def format_table(means: dict[str, dict[str, float]], metrics: tuple[str, ...]) -> str:
    """A row a model, a column a metric."""
    rows = [f"{'':10}" + "".join(f"{metric:>10}" for metric in metrics)]
    for model, values in means.items():
        rows.append(f"{model:10}" + "".join(f"{values[metric]:10.4f}" for metric in metrics))
    return "\n".join(rows)
