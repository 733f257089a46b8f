"""Latency of student, teacher and baselines: python -m benchmarks.bench_latency

Times XLA-compiled calls (LambdaMART: features and trees in its own library) on encoded lists, interleaved
in one process, for N candidates and several batch sizes. Weights lie in the calls as in an exported model:
constants, but for embedding tables beyond 64 KiB. Writes to --output_dir

    latency.json  {"n<N>": {"b<B>": {model: {"median_ms", "p99_ms", "median_ratio", "p99_ratio", "calls",
                  "mflop" of a list (not of trees)}}}}
    latency.md    the ratios to the student as tables
    latency.png   median latency against N, a panel a batch size

Generators write lists of `--slots` items, whatever N; for the N of `--whole_lists`, rows `teacher_k<K>_all`
order all N candidates, as the student does. Weights are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.bench_quality import PSAD_CONFIGS
from benchmarks.common import (
    MOVIELENS,
    RESULTS_DIR,
    WORK_DIR,
    markdown_table,
    movielens_lists,
    one_line_errors,
    read_json,
    save_figure,
    write_text,
)
from psad_tf.errors import InputError
from psad_tf.files import write_json

STUDENT, EXPORTED = "student", "student_exported"
ROUNDS = {1: 200, 32: 100, 256: 30}
_TREES = 150


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--candidates", nargs="+", type=int, default=[20, 50, 100, 200], help="N")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256], help="lists in a call")
    parser.add_argument(
        "--block_sizes", nargs="+", type=int, default=[1, 2, 5, 10, 20], help="K of the teacher"
    )
    parser.add_argument("--models", nargs="*", help="only these baselines (default: all)")
    parser.add_argument("--slots", type=int, default=20, help="L, items of a generated list")
    parser.add_argument(
        "--whole_lists", nargs="*", type=int, default=[50], help="N with lists of N slots too"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, help="calls of each; 0: 200, 100 or 30 by batch size"
    )
    parser.add_argument(
        "--lists_dir", default="", help="lists whose features are used (MovieLens by default)"
    )
    parser.add_argument("--output_dir", default=RESULTS_DIR, help="folder of the results")
    parser.add_argument("--work_dir", default=WORK_DIR, help="folder of the data")
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Times every setting and writes the results after each."""
    from benchmarks.timing import interleaved, statistics
    from psad_tf.data.list_folder import load_encoder

    if min(*options.candidates, *options.batches, *options.block_sizes, options.slots) < 1:
        raise InputError("candidates, batches, block_sizes and slots: must be at least 1")
    os.makedirs(options.output_dir, exist_ok=True)
    path = os.path.join(options.output_dir, "latency.json")
    encoder = load_encoder(options.lists_dir or movielens_lists(options.work_dir))
    models = make_models(encoder, options.slots)
    if options.models is not None:
        if unknown := set(options.models) - set(models):
            raise InputError(f"models: no baseline is called {sorted(unknown)[0]!r}")
        models = {name: model for name, model in models.items() if name in ("psad", *options.models)}
    found = read_json(path, {})
    for candidates in options.candidates:
        whole = make_psad(encoder, candidates) if candidates in options.whole_lists else None
        for lists in options.batches:
            started = time.perf_counter()
            rounds = options.rounds or ROUNDS.get(lists, 50)
            calls = make_calls(models, whole, encoder, lists, candidates, options.block_sizes)
            times = statistics(interleaved(calls, rounds), STUDENT)
            for name, call in calls.items():
                if hasattr(call, "mflop"):
                    times[name]["mflop"] = call.mflop / lists
            found.setdefault(f"n{candidates}", {})[f"b{lists}"] = times
            write_json(path, found)
            seconds = time.perf_counter() - started
            print(f"N={candidates}, {lists} lists per call: {len(times)} models, {seconds:.0f} s", flush=True)
    _report(found, options.output_dir)


def make_psad(encoder: Any, slots: int) -> Any:
    """PSAD with random weights that generates lists of `slots` items."""
    import tensorflow as tf

    from benchmarks.runs import psad_config
    from psad_tf.models.psad import PSAD

    config = psad_config(PSAD_CONFIGS[MOVIELENS])
    teacher = dataclasses.replace(config.model.teacher, slots=slots, block_size=min(5, slots))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, teacher=teacher))
    tf.keras.utils.set_random_seed(1)
    return PSAD(encoder.declaration, encoder.vocabulary_sizes, config)


def make_models(encoder: Any, slots: int) -> dict[str, Any]:
    """PSAD and the baselines with random weights; LambdaMART trained on random labels."""
    import numpy as np
    import tensorflow as tf

    from benchmarks.runs import baseline_base
    from benchmarks.timing import random_batch
    from psad_tf.baselines import NEURAL_BASELINES
    from psad_tf.baselines.lambdamart import LambdaMART, LambdaMARTConfig

    declaration, sizes = encoder.declaration, encoder.vocabulary_sizes
    base = baseline_base(slots)
    models: dict[str, Any] = {"psad": make_psad(encoder, slots)}
    models |= {name: kind(declaration, sizes, base) for name, kind in NEURAL_BASELINES.items()}
    batch = random_batch(declaration, sizes, 64, 20)
    labels = tf.constant(np.random.default_rng(0).integers(0, 2, (64, 20)), tf.float32)
    trees = LambdaMART(
        declaration, sizes, LambdaMARTConfig(num_iterations=_TREES, early_stopping_round=_TREES)
    )
    trees.fit([{**batch, "labels": labels}], [{**batch, "labels": labels}])
    return {**models, "lambdamart": trees}


def make_calls(
    models: Mapping[str, Any],
    whole: Any | None,
    encoder: Any,
    lists: int,
    candidates: int,
    block_sizes: Sequence[int],
) -> dict[str, Callable[[], object]]:
    """The compiled calls of every model for one shape; `whole` is PSAD with as many slots as candidates."""
    from benchmarks.timing import compiled_call, random_batch

    batch = random_batch(encoder.declaration, encoder.vocabulary_sizes, lists, candidates)
    psad = models["psad"]
    psad.rank(batch)
    calls: dict[str, Callable[[], object]] = {
        STUDENT: compiled_call(psad, lambda each: psad.reranker(each)["scores"], batch),
        EXPORTED: exported_call(psad.reranker, encoder, batch),
    }
    for suffix, model in (("", psad), ("_all", whole)):
        if model is None:
            continue
        model.rank(batch)
        for size in block_sizes:
            decode = functools.partial(_decoded, model, size)
            calls[f"teacher_k{size}{suffix}"] = compiled_call(model, decode, batch)
    for name, model in models.items():
        if name == "lambdamart":
            calls[name] = functools.partial(model.rank, batch)
        elif name != "psad":
            model.rank(batch)
            calls[name] = compiled_call(model, model.rank, batch)
    return calls


def exported_call(reranker: Any, encoder: Any, batch: Mapping[str, Any]) -> Callable[[], object]:
    """The student as `psad export --jit_compile` compiles it: from ids and raw numbers to scores."""
    import tempfile

    import tensorflow as tf

    from benchmarks.timing import as_request, compiled
    from psad_tf.export.compiled_reranker import CompiledReranker
    from psad_tf.export.served_layers import ServedLayers
    from psad_tf.export.served_reranker import ServedReranker

    with tempfile.TemporaryDirectory() as folder:
        served = ServedReranker(encoder, reranker, ServedLayers(reranker), folder)
        form = CompiledReranker(served, encoder.declaration)
        packed = form.packed(as_request(encoder.declaration, batch))

        def scores(flat: Mapping[str, Any]) -> Any:
            context, past, candidates = tf.nest.pack_sequence_as(packed, list(flat.values()))
            return form.rank_packed(context, past, candidates, None).scores

        call = compiled(scores, {str(index): each for index, each in enumerate(tf.nest.flatten(packed))})
    call.served = served  # type: ignore[attr-defined]  # the function refers to its tables weakly
    return call


def _decoded(model: Any, block_size: int, batch: Mapping[str, Any]) -> Any:
    return model.generate(batch, block_size=block_size).scores


def _report(found: Mapping[str, Any], output_dir: str) -> None:
    parts = ["# Latency", "", "Median time over the student's median in the same run (and the same of the"]
    parts += ["99th percentiles); the student's row has milliseconds. Made by", ""]
    parts[-1:] = ["`python -m benchmarks.bench_latency`.", ""]
    for setting, batches in found.items():
        models = sorted({m for times in batches.values() for m in times}, key=_model_order)
        one = next(iter(batches.values()))
        rows = [
            [model, _mflop(one, model), *(_cell(model, times.get(model)) for times in batches.values())]
            for model in models
        ]
        header = ["model", "MFLOP per list", *(f"{name[1:]} list{'s' * (name != 'b1')}" for name in batches)]
        parts += [f"## N = {setting[1:]}", "", markdown_table(header, rows), ""]
    text = "\n".join(parts)
    write_text(os.path.join(output_dir, "latency.md"), text)
    draw(found, os.path.join(output_dir, "latency.png"))
    print(text)
    print(f"wrote {os.path.join(output_dir, 'latency.json')}, latency.md and latency.png")


def _model_order(name: str) -> tuple[int, int, str]:
    if name in (STUDENT, EXPORTED):
        return (0, 0, name)
    if name.startswith("teacher"):
        return (1, int(name.removeprefix("teacher_k").removesuffix("_all")), name)
    return (2, 0, name)


def _mflop(times: Mapping[str, Mapping[str, float]], model: str) -> str:
    return f"{times[model]['mflop']:.2f}" if "mflop" in times.get(model, {}) else ""


def _cell(model: str, facts: Mapping[str, float] | None) -> str:
    if facts is None:
        return ""
    if model == STUDENT:
        return f"{facts['median_ms']:.2f} ms (p99 {facts['p99_ms']:.2f} ms)"
    return f"{facts['median_ratio']:.1f} (p99 {facts['p99_ratio']:.1f})"


def draw(found: Mapping[str, Any], path: str) -> None:
    """Median latency against N, a panel a batch size."""
    import matplotlib
    from matplotlib.figure import Figure

    batches = sorted({batch for each in found.values() for batch in each}, key=lambda name: int(name[1:]))
    everything = {name for each in found.values() for times in each.values() for name in times}
    curves = sorted((name for name in everything if not name.endswith("_all")), key=_model_order)
    colors = dict(zip(curves, map(matplotlib.colormaps["tab20"], range(20)), strict=False))
    figure = Figure(figsize=(5 * len(batches), 4.5))
    axes = figure.subplots(1, len(batches), squeeze=False)
    for axis, batch in zip(axes[0], batches, strict=True):
        points = {int(setting[1:]): each[batch] for setting, each in found.items() if batch in each}
        for model in curves:
            at = sorted(n for n in points if model in points[n])
            style = "-" if model in (STUDENT, EXPORTED) else "--" if model.startswith("teacher") else ":"
            times = [points[n][model]["median_ms"] for n in at]
            axis.plot(at, times, style, color=colors[model], marker="o", ms=3, label=model)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(sorted(points), [str(n) for n in sorted(points)])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.set_xlabel("candidates")
        for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            set_formatter("{x:g}")
        axis.set_ylabel("median ms per call")
        axis.set_title(f"{batch[1:]} list{'s' * (batch != 'b1')} per call")
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
