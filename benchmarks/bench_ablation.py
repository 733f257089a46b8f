"""What each part of PSAD gives: python -m benchmarks.bench_ablation

Trains PSAD with one part left out or changed at a time, and with every block size K, on MovieLens-100K and
on the simulator, and writes to --output_dir

    ablation.json  {data set: {variant: {"student", "teacher": {"mean", "std", "seeds"} of NDCG@10,
                   "student_against_full", "teacher_against_full": paired tests,
                   "decode": latency where K varies}}}
    ablation.md    the same as tables
    ablation.png   quality against decoding latency, the student beside the teachers

Finished runs are kept in runs/bench/results.jsonl (shared with bench_quality).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.bench_quality import make_runner, psad_config_of
from benchmarks.common import (
    MOVIELENS,
    RESULTS_DIR,
    SIMULATOR,
    WORK_DIR,
    ResultStore,
    markdown_table,
    merged,
    one_line_errors,
    paired_test,
    read_json,
    save_figure,
    summarize,
    write_text,
)
from psad_tf.config import TrainConfig
from psad_tf.errors import InputError
from psad_tf.files import write_json

FULL = "full"
NEARNESS = "share_of_best_utility"
BLOCK_SIZES = (1, 2, 4, 5, 10, 20)
_TITLES = {
    FULL: "all parts",
    "no_gates": "without personalized gates",
    "no_personal_positions": "without personalized positions",
    "no_target_attention": "without target attention",
    "cross": "with Cross",
    "no_history_match": "without history match",
    "no_relative_features": "without features relative to the list",
    "no_distillation": "without distillation",
    "offline": "offline distillation",
}


def _profile(**changes: bool) -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        profile = dataclasses.replace(config.model.user_profile, **changes)
        return dataclasses.replace(config, model=dataclasses.replace(config.model, user_profile=profile))

    return change


def _distillation(**changes: Any) -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, **changes))

    return change


VARIANTS: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    FULL: lambda config: config,
    "no_gates": _profile(personalized_gates=False),
    "no_personal_positions": _profile(personalized_positions=False),
    "no_target_attention": _profile(target_attention=False),
    "cross": _profile(cross=True),
    "no_history_match": _profile(history_match=False),
    "no_relative_features": _profile(relative_features=False),
    "no_distillation": _distillation(source="none"),
    "offline": _distillation(mode="offline"),
}


def block_sizes(list_size: int) -> list[int]:
    """The block sizes of a data set; the longest is the whole list."""
    return sorted({min(size, list_size) for size in BLOCK_SIZES})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each variant")
    parser.add_argument("--variants", nargs="+", default=None, help="only these (names, or k1, k2 ...)")
    parser.add_argument(
        "--data", nargs="+", choices=(MOVIELENS, SIMULATOR), default=[MOVIELENS, SIMULATOR], help="data sets"
    )
    parser.add_argument("--lists_dir", default="", help="MovieLens lists that are already there")
    parser.add_argument("--output_dir", default=RESULTS_DIR, help="folder of the results")
    parser.add_argument("--work_dir", default=WORK_DIR, help="folder of data, runs and finished results")
    options = parser.parse_args(arguments)
    with one_line_errors():
        run(options)


def run(options: argparse.Namespace) -> None:
    """Trains what is not trained yet, times the decoders, and writes the results."""
    if options.seeds < 1:
        raise InputError(f"seeds: must be at least 1, got {options.seeds}")
    os.makedirs(options.output_dir, exist_ok=True)
    path = os.path.join(options.output_dir, "ablation.json")
    store = ResultStore(os.path.join(options.work_dir, "results.jsonl"))
    for data in options.data:
        runner, finish = make_runner(data, options.work_dir, options.lists_dir, store)
        sizes = block_sizes(runner.list_size)
        names = [*VARIANTS, *(f"k{size}" for size in sizes)]
        names = [n for n in names if options.variants is None or n in (FULL, *options.variants)]
        full: list[dict[str, Any]] = []
        for name in names:
            records = [
                _announced(data, name, seed, runner, options.seeds) for seed in range(1, options.seeds + 1)
            ]
            full = records if name == FULL else full
            # Offline, the teacher that taught is another model; the run's own is not trained.
            parts = ("student",) if name == "offline" else ("student", "teacher")
            write_json(path, merged(read_json(path, {}), {data: {name: _summary(records, full, parts)}}))
        latency = decode_latency(data, runner, sizes)
        found = read_json(path, {})
        for name, facts in latency.items():
            if name in found[data]:
                found[data][name]["decode"] = facts
        found[data][FULL]["student_decode"] = latency["student"]
        write_json(path, found)
        finish()
    _report(options.output_dir)


def _announced(data: str, name: str, seed: int, runner: Any, seeds: int) -> dict[str, Any]:
    record = runner.psad(variant_config(data, name, seed, runner))
    quality = {part: f"{record['metrics'][part]['ndcg@10']:.4f}" for part in ("student", "teacher")}
    print(f"{data} {name} seed {seed} of {seeds}: test NDCG@10 {quality}", flush=True)
    return record


def variant_config(data: str, name: str, seed: int, runner: Any) -> TrainConfig:
    """The configuration of a variant (of `VARIANTS`) or of a block size (`k<K>`)."""
    if name in VARIANTS:
        return VARIANTS[name](psad_config_of(data, "student", seed, runner))
    return psad_config_of(data, f"teacher_{name}", seed, runner)


def _summary(
    records: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]], parts: Sequence[str]
) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for part in parts:
        metrics = [record["metrics"][part] for record in records]
        summary[part] = summarize([each["ndcg@10"] for each in metrics])
        if NEARNESS in metrics[0]:
            summary[f"{part}_{NEARNESS}"] = summarize([each[NEARNESS] for each in metrics])
        if records is not full:
            summary[f"{part}_against_full"] = paired_test(_per_list(records, part), _per_list(full, part))
    return summary


def _per_list(records: Sequence[Mapping[str, Any]], part: str) -> np.ndarray:
    return np.mean([np.array(record["per_list"][part], np.float64) for record in records], axis=0)


def decode_latency(data: str, runner: Any, sizes: Sequence[int], rounds: int = 200) -> dict[str, Any]:
    """Latency of one list, student and teacher at each K, in one interleaved run."""
    import tensorflow as tf

    from benchmarks.timing import compiled_call, interleaved, random_batch, statistics
    from psad_tf.models.psad import PSAD

    config = psad_config_of(data, "student", 1, runner)
    encoder = runner.encoder
    tf.keras.utils.set_random_seed(1)
    model = PSAD(encoder.declaration, encoder.vocabulary_sizes, config)
    batch = random_batch(encoder.declaration, encoder.vocabulary_sizes, 1, runner.list_size)
    model.rank(batch)
    calls: dict[str, Callable[[], object]] = {
        "student": compiled_call(lambda each: model.reranker(each)["scores"], batch)
    }
    for size in sizes:
        decode = compiled_call(lambda each, size=size: model.generate(each, block_size=size).scores, batch)
        calls[f"k{size}"] = decode
    return statistics(interleaved(calls, rounds), "student")


def _report(output_dir: str) -> None:
    found = read_json(os.path.join(output_dir, "ablation.json"), {})
    parts = [
        "# Ablation",
        "",
        "NDCG@10 on test lists, mean ± standard deviation over seeds; differences from",
    ]
    parts += ["`all parts` are paired by list (p: sign-flip permutation test). Made by"]
    parts += ["`python -m benchmarks.bench_ablation`.", ""]
    for data, variants in found.items():
        rows = [[_TITLES[name], *_quality_cells(variants[name])] for name in VARIANTS if name in variants]
        header = [
            "variant",
            "student",
            "teacher",
            "student - all parts",
            "p",
            "teacher - all parts",
            "p",
            "seeds",
        ]
        parts += [f"## {data}", "", markdown_table(header, rows), ""]
        blocks = sorted((n for n in variants if n.startswith("k")), key=lambda name: int(name[1:]))
        if blocks:
            rows = [[f"teacher, K={n[1:]}", *_block_cells(variants[n], "teacher")] for n in blocks]
            if FULL in variants and "student_decode" in variants[FULL]:
                facts = {**variants[FULL], "decode": variants[FULL]["student_decode"]}
                rows.append(["student", *_block_cells(facts, "student")])
            header = ["model", "NDCG@10", "median ms", "p99 ms", "median / student's"]
            parts += ["One list, XLA-compiled:", "", markdown_table(header, rows), ""]
    text = "\n".join(parts)
    write_text(os.path.join(output_dir, "ablation.md"), text)
    draw(found, os.path.join(output_dir, "ablation.png"))
    print(text)
    print(f"wrote {os.path.join(output_dir, 'ablation.json')}, ablation.md and ablation.png")


def _quality_cells(facts: Mapping[str, Any]) -> list[str]:
    cells = [_cell(facts[part]) if part in facts else "" for part in ("student", "teacher")]
    for part in ("student", "teacher"):
        test = facts.get(f"{part}_against_full")
        cells += ["", ""] if test is None else [f"{test['difference']:+.4f}", f"{test['p']:.3f}"]
    return [*cells, str(len(facts["student"]["seeds"]))]


def _block_cells(facts: Mapping[str, Any], part: str) -> list[str]:
    decode = facts.get("decode")
    if decode is None:
        return [_cell(facts[part]), "", "", ""]
    return [
        _cell(facts[part]),
        f"{decode['median_ms']:.2f}",
        f"{decode['p99_ms']:.2f}",
        f"{decode['median_ratio']:.1f}",
    ]


def _cell(summary: Mapping[str, Any]) -> str:
    if len(summary["seeds"]) == 1:
        return f"{summary['mean']:.4f}"
    return f"{summary['mean']:.4f} ± {summary['std']:.4f}"


def draw(found: Mapping[str, Any], path: str) -> None:
    """Quality against latency, a panel a data set."""
    import matplotlib
    from matplotlib.figure import Figure

    drawn = {
        data: variants
        for data, variants in found.items()
        if "student_decode" in variants.get(FULL, {}) and any("decode" in each for each in variants.values())
    }
    if not drawn:
        return
    figure = Figure(figsize=(5.5 * len(drawn), 4.2))
    axes = figure.subplots(1, len(drawn), squeeze=False)
    for axis, (data, variants) in zip(axes[0], drawn.items(), strict=True):
        blocks = {int(n[1:]): each for n, each in variants.items() if n.startswith("k") and "decode" in each}
        shades = matplotlib.colormaps["viridis"]
        points = [
            (
                f"teacher, K={size}",
                each["decode"],
                each["teacher"],
                {"fmt": "o", "color": shades(i / len(blocks))},
            )
            for i, (size, each) in enumerate(sorted(blocks.items()))
        ]
        full = variants[FULL]
        star = {"fmt": "*", "ms": 14, "color": "tab:red"}
        points.append(("student", full["student_decode"], full["student"], star))
        for label, decode, quality, style in points:
            axis.errorbar(
                decode["median_ms"], quality["mean"], quality["std"], capsize=3, label=label, **style
            )
        axis.set_xlim(left=0)
        axis.legend(loc="lower left")
        axis.set_xlabel("median latency of one list, ms")
        axis.set_ylabel("NDCG@10, test lists")
        axis.set_title(data)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
