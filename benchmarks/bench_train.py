"""Training speed: plain Python, tf.function and XLA, precisions, batch sizes, the teacher's share, what
generating lists inside the step costs, the input pipeline, and a large vocabulary.

    python -m benchmarks.bench_train [--lists_dir LISTS] [--rounds 30]

Variants are timed in turns in one process, so ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import markdown_table, one_line_errors, save_figure, write_text
from psad_tf.files import write_json

WITHOUT_TEACHER = "XLA, float32, without teacher"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists_dir", default=None, help="lists; left out: MovieLens-100K, made if missing")
    parser.add_argument("--config", default="configs/movielens.json", help="training configuration")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each variant")
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of each source of data")
    parser.add_argument("--ids", type=int, default=10_000_000, help="large vocabulary's size; 0 for none")
    parser.add_argument("--block_sizes", type=int, nargs="+", default=[1, 2, 3, 6], help="K of generation")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 64, 256], help="lists per step")
    parser.add_argument("--output_dir", default="benchmarks/results", help="folder of train.json, .md, .png")
    with one_line_errors():
        run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    lists_dir = options.lists_dir
    if lists_dir is None:
        from benchmarks.common import movielens_lists

        lists_dir = movielens_lists()
    from psad_tf.config import load_train_config
    from psad_tf.data.list_folder import load_encoder

    config, encoder = load_train_config(options.config), load_encoder(lists_dir)
    found: dict[str, Any] = {"steps": {}, "pipeline": {}}
    for batch_size in options.batch_sizes:
        print(f"batch of {batch_size} lists: compiling", flush=True)
        found["steps"][str(batch_size)] = measure_steps(
            lists_dir, encoder, config, batch_size, options.rounds
        )
    print("generation inside the step: compiling", flush=True)
    found["generation"] = measure_generation(options.block_sizes, options.rounds)
    print("input pipeline: real data against one held batch", flush=True)
    found["pipeline"] = measure_pipeline(lists_dir, encoder, config, options.epochs)
    if options.ids:
        print(f"vocabulary of {options.ids:,} ids", flush=True)
        found["vocabulary"] = measure_vocabulary(options.ids)
    table = _table(found)
    print(table)
    write_json(os.path.join(options.output_dir, "train.json"), found)
    write_text(os.path.join(options.output_dir, "train.md"), table + "\n")
    draw(found, os.path.join(options.output_dir, "train.png"))
    print(f"Wrote {os.path.join(options.output_dir, 'train.json')}, train.md and train.png")


def measure_steps(lists_dir: str, encoder: Any, config: Any, batch_size: int, rounds: int) -> dict[str, Any]:
    """Times a step of each variant: {variant: {median_ms, lists_per_second, ratio_to_plain}}.

    `without teacher` is the compiled step of the User Profile Network and the student alone: what is missing
    to the whole step's time is the teacher's and the distillation's share.
    """
    import numpy as np
    import tensorflow as tf

    from benchmarks.timing import interleaved
    from psad_tf.data.batches import ListDataset
    from psad_tf.training.trainer import build_model

    data = dataclasses.replace(config.data, batch_size=batch_size)
    batch = next(iter(ListDataset(lists_dir, "train", encoder, data).training_batches(1, 0)))
    calls: dict[str, Callable[[], object]] = {}
    for precision in ("float32", "bfloat16"):
        tf.keras.mixed_precision.set_global_policy("float32" if precision == "float32" else "mixed_bfloat16")
        for how in ("plain", "tf.function", "XLA"):
            settings = dataclasses.replace(
                config, data=data, jit_compile=how == "XLA", mixed_precision=precision
            )
            model = build_model(encoder, settings)
            calls[f"{how}, {precision}"] = _eager(model, batch) if how == "plain" else _step(model, batch)
    tf.keras.mixed_precision.set_global_policy("float32")
    alone = dataclasses.replace(
        config,
        data=data,
        jit_compile=True,
        distillation=dataclasses.replace(config.distillation, source="none"),
    )
    calls[WITHOUT_TEACHER] = _step(build_model(encoder, alone, tutor=build_model(encoder, alone)), batch)
    seconds = interleaved(calls, rounds)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        name: {
            "median_ms": 1e3 * median,
            "lists_per_second": batch_size / median,
            "ratio_to_tf_function": median / medians["tf.function, float32"],
        }
        for name, median in medians.items()
    }


def measure_generation(block_sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Times a compiled step of the preset `interactions` (20 candidates, 6 slots) by what it distils.

    Returns:
        {K: {"none", "generated": median ms, "none_first_s", "generated_first_s": seconds of the first step,
        which is traced and compiled}}: no distillation, and from the lists that the teacher generates in
        the step.
    """
    import numpy as np
    import tensorflow as tf

    from benchmarks.timing import interleaved
    from psad_tf.config import load_train_config
    from psad_tf.datasets.simulator import PRESETS
    from psad_tf.datasets.simulator.encoded import EncodedWorld
    from psad_tf.models.psad import PSAD
    from psad_tf.training.optimizer import make_optimizer

    base = load_train_config("configs/interactions.json")
    source = EncodedWorld(dataclasses.replace(PRESETS["interactions"], lists=4_000))
    batch = next(iter(source.dataset("train", base.data).training_batches(1, 0)))
    calls: dict[str, Callable[[], object]] = {}
    found: dict[str, Any] = {str(size): {} for size in block_sizes}
    for size in block_sizes:
        for kind in ("none", "generated"):
            teacher = dataclasses.replace(base.model.teacher, block_size=size)
            config = dataclasses.replace(
                base,
                model=dataclasses.replace(base.model, teacher=teacher),
                distillation=dataclasses.replace(base.distillation, source=kind),
            )
            model = PSAD(source.declaration, source.vocabulary_sizes, config)
            model.compile(optimizer=make_optimizer(config.optimizer))
            model.rank({name: each[:1] for name, each in batch.items()})
            model.optimizer.build(model.trainable_variables)
            step = tf.function(model.train_step, jit_compile=True)
            calls[f"{size} {kind}"] = functools.partial(_loss_of, step, batch)
            start = time.perf_counter()
            _loss_of(step, batch)
            found[str(size)][f"{kind}_first_s"] = time.perf_counter() - start
    for name, seconds in interleaved(calls, rounds).items():
        block_size, _, kind = name.partition(" ")
        found[block_size][kind] = 1e3 * float(np.median(seconds))
    return found


def _loss_of(step: Any, batch: Any) -> float:
    return float(step(batch)["loss"])


def _step(model: Any, batch: Any) -> Callable[[], object]:
    import tensorflow as tf

    train = model.make_train_function()
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: float(train(iterator)["loss"])


def _eager(model: Any, batch: Any) -> Callable[[], object]:
    """The step as Python runs it, operation by operation."""
    return lambda: float(model.train_step(batch)["loss"])


def measure_pipeline(lists_dir: str, encoder: Any, config: Any, epochs: int) -> dict[str, float]:
    """Milliseconds a step over whole epochs: from files, from decoded lists in memory, from one held batch.

    From files is what the first epoch does, and every epoch of data too large for `data.cache_mib`; from
    memory is every later one. Both include what an epoch's start costs.
    """
    import numpy as np
    import tensorflow as tf

    from psad_tf.data.batches import ListDataset
    from psad_tf.training.trainer import build_model

    def dataset(cache: bool) -> ListDataset:
        return ListDataset(lists_dir, "train", encoder, dataclasses.replace(config.data, cache=cache))

    files, memory = dataset(False), dataset(True)
    steps = memory.steps_per_epoch
    train = build_model(encoder, config).make_train_function()
    batch = next(iter(files.training_batches(1, 0)))
    for _ in memory.training_batches(1, 0):  # fills the cache
        pass
    sources = {
        "files": files.training_batches(1, 1),
        "memory": memory.training_batches(1, 1),
        "held": tf.data.Dataset.from_tensors(batch).repeat(),
    }
    train(iter(sources["held"]))
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(epochs):
        for name, source in sources.items():
            started = time.perf_counter()
            batches = iter(source)
            for _ in range(steps):
                loss = train(batches)["loss"]
            float(loss)
            seconds[name].append((time.perf_counter() - started) / steps)
    ms = {f"{name}_ms": 1e3 * float(np.median(values)) for name, values in seconds.items()}
    return {
        **ms,
        "steps": steps,
        "ratio_files": ms["files_ms"] / ms["held_ms"],
        "ratio_memory": ms["memory_ms"] / ms["held_ms"],
    }


def measure_vocabulary(ids: int) -> dict[str, Any]:
    """Both kinds of embedding of a large vocabulary, each in a process of its own."""
    found = {}
    for kind in ("table", "compositional"):
        command = [sys.executable, "-m", "benchmarks.large_vocabulary", "--ids", str(ids), "--kind", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[kind] = json.loads(done.stdout)
    return found


def _table(found: dict[str, Any]) -> str:
    rows = [
        [
            size,
            name,
            f"{facts['median_ms']:.1f}",
            f"{facts['lists_per_second']:,.0f}",
            f"{facts['ratio_to_tf_function']:.2f}",
        ]
        for size, variants in found["steps"].items()
        for name, facts in variants.items()
    ]
    header = ["batch", "variant", "median ms", "lists/s", "time over tf.function, float32"]
    shares = ", ".join(
        f"{1.0 - variants[WITHOUT_TEACHER]['median_ms'] / variants['XLA, float32']['median_ms']:.0%} "
        f"(batch {size})"
        for size, variants in found["steps"].items()
    )
    pipeline = found["pipeline"]
    text = (
        f"{markdown_table(header, rows)}\n\n"
        f"Share of the teacher and the distillation in a step: {shares}.\n\n"
        f"A step over whole epochs of {pipeline['steps']} steps: {pipeline['held_ms']:.1f} ms with one held "
        f"batch, {pipeline['memory_ms']:.1f} ms with decoded lists in memory (ratio "
        f"{pipeline['ratio_memory']:.3f}), {pipeline['files_ms']:.1f} ms reading the files (ratio "
        f"{pipeline['ratio_files']:.3f})."
    )
    rows = [
        [
            size,
            f"{times['none']:.1f}",
            f"{times['generated']:.1f}",
            f"{times['generated'] / times['none']:.2f}",
            f"{times['none_first_s']:.0f}",
            f"{times['generated_first_s']:.0f}",
        ]
        for size, times in found["generation"].items()
    ]
    header = ["K", "no distillation, ms", "from generated lists, ms", "ratio"]
    header += ["first step without, s", "first step with, s"]
    text += "\n\nA compiled step of the preset `interactions`, 256 lists of 20 candidates, 6 slots:\n\n"
    text += markdown_table(header, rows)
    if "vocabulary" not in found:
        return text
    rows = [
        [
            f"{each['ids']:,}",
            kind,
            f"{each['predicted_mib']:,.0f}",
            f"{each['weights_and_step_mib']:,.0f}",
            f"{each['predicted_lookup_mib']:,.0f}",
            f"{each['lookup_mib']:,.0f}",
            f"{each['peak_of_process_mib']:,.0f}",
            f"{each['step_ms']:.0f}",
        ]
        for kind, each in found["vocabulary"].items()
    ]
    header = ["ids", "embedding", "tables and moments, predicted MiB", "with the step, measured"]
    header += ["lookup, predicted MiB", "measured", "peak of the process", "step ms"]
    return f"{text}\n\n{markdown_table(header, rows)}"


def draw(found: dict[str, Any], path: str) -> None:
    """Lists a second by batch size, a line a variant of the step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    sizes = [int(size) for size in found["steps"]]
    first = next(iter(found["steps"].values()))
    for name in (each for each in first if each != WITHOUT_TEACHER):
        speeds = [variants[name]["lists_per_second"] for variants in found["steps"].values()]
        axes.plot(sizes, speeds, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("lists per step")
    axes.set_ylabel("lists per second")
    axes.set_title("Training speed")
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
