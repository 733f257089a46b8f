"""List value against latency: python -m benchmarks.list_value_tradeoff

Times how long each model of `list_value.json` takes to order one list of the world `interactions` (20
candidates, 6 slots; XLA-compiled, interleaved in one process, random weights, which do not change the time),
and draws the values that the benchmark of list value found against it. Writes to --output_dir

    list_value_tradeoff.json  {"lists", "models": {model: {"list_value", "mflop", "median_ms", "p99_ms",
                              "median_ratio", "p99_ratio", "calls"}}}; ratios to the student
    list_value_tradeoff.png   the picture
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.common import RESULTS_DIR, markdown_table, one_line_errors, read_json, save_figure
from benchmarks.list_value import BASELINES, PRESET_FILE, TEACHERS
from benchmarks.list_value_report import LABELS
from benchmarks.list_value_runs import SLOTS
from psad_tf.errors import InputError
from psad_tf.files import write_json

STUDENT = "student"
WORLD = "interactions"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--lists", type=int, default=0, help="values of so many lists (default: the most with K)"
    )
    parser.add_argument("--rounds", type=int, default=300, help="timed calls of each model")
    parser.add_argument(
        "--output_dir", default=RESULTS_DIR, help="folder of list_value.json and of the results"
    )
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Times the models that have a value, and draws."""
    path = os.path.join(options.output_dir, "list_value.json")
    by_lists = read_json(path, {}).get(WORLD, {})
    measured = {int(lists): of_lists["all"] for lists, of_lists in by_lists.items() if "all" in of_lists}
    several = [n for n, found in measured.items() if STUDENT in found and len(set(TEACHERS) & set(found)) > 1]
    lists = options.lists or max(several, default=0)
    if STUDENT not in measured.get(lists, {}):
        raise InputError(
            f"{path}: has no student of {lists:,} lists; run python -m benchmarks.list_value first"
        )
    timed = [name for name in (STUDENT, *TEACHERS, *BASELINES) if name in measured[lists]]
    times = latencies([name for name in timed if name != "lambdamart"], options.rounds)
    models = {name: {"list_value": measured[lists][name]["mean"], **facts} for name, facts in times.items()}
    write_json(
        os.path.join(options.output_dir, "list_value_tradeoff.json"), {"lists": lists, "models": models}
    )
    draw(models, lists, os.path.join(options.output_dir, "list_value_tradeoff.png"))
    rows = [
        [name, f"{each['list_value']:.3f}", f"{each['median_ms']:.2f}", f"{each['median_ratio']:.2f}"]
        for name, each in models.items()
    ]
    print(markdown_table(["model", "list value", "median ms per list", "over the student's"], rows))
    print(f"wrote list_value_tradeoff.json and list_value_tradeoff.png in {options.output_dir}")


def latencies(names: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """How long each model takes to order one list, in turns."""
    import tensorflow as tf

    from benchmarks.timing import compiled_call, interleaved, random_batch, statistics
    from psad_tf.baselines import NEURAL_BASELINES
    from psad_tf.config import load_train_config
    from psad_tf.datasets.simulator import PRESETS
    from psad_tf.datasets.simulator.encoded import EncodedWorld
    from psad_tf.models.psad import PSAD

    world = PRESETS[WORLD]
    source = EncodedWorld(dataclasses.replace(world, lists=1_000))
    sizes = source.vocabulary_sizes
    config = load_train_config(PRESET_FILE).changed({"model": {"teacher": {"slots": SLOTS}}})
    batch = random_batch(source.declaration, sizes, 1, world.candidates)
    tf.keras.utils.set_random_seed(1)
    psad = PSAD(source.declaration, sizes, config)
    psad.rank(batch)
    calls: dict[str, Callable[[], Any]] = {}
    for name in names:
        if name == STUDENT:
            calls[name] = compiled_call(psad, lambda each: psad.reranker(each)["scores"], batch)
        elif name in TEACHERS:
            decode = lambda each, k=TEACHERS[name]: psad.generate(each, block_size=k).scores  # noqa: E731
            calls[name] = compiled_call(psad, decode, batch)
        else:
            model = NEURAL_BASELINES[name](source.declaration, sizes, config)
            model.rank(batch)
            calls[name] = compiled_call(model, model.rank, batch)
    times = statistics(interleaved(calls, rounds), STUDENT)
    return {name: {**facts, "mflop": calls[name].mflop} for name, facts in times.items()}  # type: ignore[attr-defined]


def draw(models: Mapping[str, Mapping[str, float]], lists: int, path: str) -> None:
    """A point a model: up is better, left is faster; the baselines are one cloud."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6))
    axis = figure.subplots()
    right = 1.3 * max(each["median_ms"] for each in models.values())
    colors = {STUDENT: "#c8102e"} | dict.fromkeys(TEACHERS, "#1f6fb4")
    for name, each in models.items():
        point = (each["median_ms"], 100 * each["list_value"])
        marker = {"s": 200, "marker": "*"} if name == STUDENT else {"s": 45}
        axis.scatter(*point, color=colors.get(name, "#9a9a9a"), **marker)
    lowest = 100.0
    ours = [name for name in models if name in colors]
    for name in sorted(ours, key=lambda each: -models[each]["list_value"]):
        x, y = models[name]["median_ms"], 100 * models[name]["list_value"]
        style: dict[str, Any] = {"color": colors[name], "fontsize": 10, "va": "center"}
        if name == STUDENT:
            axis.text(x - 0.02 * right, y, "student (served)", ha="right", **style)
        else:  # one under the other, where their points are close
            lowest = min(lowest - 1.2, y)
            axis.text(0.82 * right, lowest, f"teacher, K = {TEACHERS[name]}", **style)
    others = [name for name in models if name not in colors]
    if others:
        text = "\n".join(textwrap.wrap(", ".join(LABELS[name] for name in others), 48))
        low = min(100 * models[name]["list_value"] for name in others)
        middle = sum(models[name]["median_ms"] for name in others) / len(others)
        axis.text(middle, low - 1.5, text, color="#6f6f6f", fontsize=9, ha="center", va="top")
        axis.set_ylim(bottom=low - 7)
    axis.set_xlim(0, 1.15 * right)
    axis.set_xlabel("time to order one list of 20 candidates, ms (median)")
    axis.set_ylabel("list value, % of the greedy oracle's")
    axis.set_title(f"List value against latency, {lists:,} logged lists", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
