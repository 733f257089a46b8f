"""Training speed: plain graph against XLA, precisions, batch sizes, the teacher's share, the input pipeline.

    python -m benchmarks.bench_train [--lists_dir LISTS] [--rounds 30]

Every pair of variants is timed in turns in one process, so ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import markdown_table, one_line_errors, write_json, write_text


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lists_dir", default=None, help="lists; left out: MovieLens-100K, made if missing")
    parser.add_argument("--config", default="configs/movielens.json", help="training configuration")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each variant")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 64, 256], help="lists a step")
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
    from psad_tf.input_pipeline import load_encoder

    config, encoder = load_train_config(options.config), load_encoder(lists_dir)
    found: dict[str, Any] = {"steps": {}, "pipeline": {}}
    for batch_size in options.batch_sizes:
        print(f"batch of {batch_size} lists: compiling", flush=True)
        found["steps"][str(batch_size)] = measure_steps(
            lists_dir, encoder, config, batch_size, options.rounds
        )
    print("input pipeline: real data against one cached batch", flush=True)
    found["pipeline"] = measure_pipeline(lists_dir, encoder, config, options.rounds)
    table = _table(found)
    print(table)
    write_json(os.path.join(options.output_dir, "train.json"), found)
    write_text(os.path.join(options.output_dir, "train.md"), table + "\n")
    draw(found, os.path.join(options.output_dir, "train.png"))
    print(f"Wrote {os.path.join(options.output_dir, 'train.json')}, train.md and train.png")


def measure_steps(lists_dir: str, encoder: Any, config: Any, batch_size: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step of each variant: {variant: {median_ms, lists_per_second, ratio to plain}}."""
    import numpy as np
    import tensorflow as tf

    from benchmarks.timing import interleaved
    from psad_tf.input_pipeline import ListDataset
    from psad_tf.train import build_model

    data = dataclasses.replace(config.data, batch_size=batch_size)
    batch = next(iter(ListDataset(lists_dir, "train", encoder, data).training_batches(1, 0)))
    calls: dict[str, Callable[[], object]] = {}
    for precision, jit in itertools.product(("float32", "bfloat16"), (False, True)):
        tf.keras.mixed_precision.set_global_policy("float32" if precision == "float32" else "mixed_bfloat16")
        settings = dataclasses.replace(config, data=data, jit_compile=jit, mixed_precision=precision)
        calls[f"{'XLA' if jit else 'plain graph'}, {precision}"] = _step(
            build_model(encoder, settings), batch
        )
    tf.keras.mixed_precision.set_global_policy("float32")
    alone = build_model(encoder, dataclasses.replace(config, data=data, jit_compile=True), tutor=None)
    calls["XLA, float32, forward of UPN and student"] = _student_forward(alone, batch)
    calls["XLA, float32, forward of the teacher too"] = _whole_forward(alone, batch)
    seconds = interleaved(calls, rounds)
    plain = float(np.median(seconds["plain graph, float32"]))
    return {
        name: {
            "median_ms": 1e3 * float(np.median(values)),
            "lists_per_second": batch_size / float(np.median(values)),
            "ratio_to_plain": float(np.median(values)) / plain,
        }
        for name, values in seconds.items()
    }


def _step(model: Any, batch: Any) -> Callable[[], object]:
    import tensorflow as tf

    train = model.make_train_function()
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: float(train(iterator)["loss"])


def _student_forward(model: Any, batch: Any) -> Callable[[], object]:
    import tensorflow as tf

    forward = tf.function(lambda encoded: model.reranker(encoded)["scores"], jit_compile=True)
    return lambda: forward(batch).numpy()


def _whole_forward(model: Any, batch: Any) -> Callable[[], object]:
    import tensorflow as tf

    zero = tf.constant(0.0)
    forward = tf.function(
        lambda encoded: model.compute_losses(encoded, None, tf.zeros_like(encoded["labels"]), zero)["loss"],
        jit_compile=True,
    )
    return lambda: forward(batch).numpy()


def measure_pipeline(lists_dir: str, encoder: Any, config: Any, rounds: int) -> dict[str, float]:
    """Step time with the real input pipeline over that with one batch held in memory."""
    import numpy as np
    import tensorflow as tf

    from psad_tf.input_pipeline import ListDataset
    from psad_tf.train import build_model

    dataset = ListDataset(lists_dir, "train", encoder, config.data)
    model = build_model(encoder, config)
    train = model.make_train_function()
    for _ in dataset.training_batches(1, 0):  # fills the cache, as the first epoch does
        pass
    held = tf.data.Dataset.from_tensors(next(iter(dataset.training_batches(1, 0)))).repeat()
    sources = {"real": iter(dataset.training_batches(1, 1).repeat()), "cached": iter(held)}
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for source in sources.values():
        train(source)
    for _ in range(rounds):
        for name, source in sources.items():
            started = time.perf_counter()
            for _ in range(5):
                loss = train(source)["loss"]
            float(loss)
            seconds[name].append((time.perf_counter() - started) / 5)
    real, cached = float(np.median(seconds["real"])), float(np.median(seconds["cached"]))
    return {"real_ms": 1e3 * real, "cached_ms": 1e3 * cached, "ratio": real / cached}


def _table(found: dict[str, Any]) -> str:
    rows = [
        [
            size,
            name,
            f"{facts['median_ms']:.1f}",
            f"{facts['lists_per_second']:,.0f}",
            f"{facts['ratio_to_plain']:.2f}",
        ]
        for size, variants in found["steps"].items()
        for name, facts in variants.items()
    ]
    header = ["batch", "variant", "median ms", "lists/s", "time over plain float32 step"]
    pipeline = found["pipeline"]
    return (
        f"{markdown_table(header, rows)}\n\nStep with real data {pipeline['real_ms']:.1f} ms, with one "
        f"cached batch {pipeline['cached_ms']:.1f} ms: ratio {pipeline['ratio']:.3f}."
    )


def draw(found: dict[str, Any], path: str) -> None:
    """Lists a second by batch size, a line a variant of the step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from psad_tf.files import replaced_file

    figure, axes = pyplot.subplots(figsize=(7, 4))
    sizes = [int(size) for size in found["steps"]]
    first = next(iter(found["steps"].values()))
    for name in (each for each in first if "forward" not in each):
        speeds = [variants[name]["lists_per_second"] for variants in found["steps"].values()]
        axes.plot(sizes, speeds, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("lists a step")
    axes.set_ylabel("lists a second")
    axes.set_title("Training speed")
    axes.legend()
    figure.tight_layout()
    with replaced_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


if __name__ == "__main__":
    main()
