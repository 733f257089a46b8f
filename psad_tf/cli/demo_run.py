"""The whole product on MovieLens-100K: from the public files to lists reranked over gRPC."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from psad_tf.config import TrainConfig
from psad_tf.data.records import read_json_lines
from psad_tf.files import write_json
from psad_tf.metrics import METRICS

_SHOWN_USERS = 3
_SHOWN_ITEMS = 5


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """What the demo does.

    Args:
        output_dir: Folder of everything it makes.
        cache_dir: Where the downloaded data set is kept; None for the default.
        train: Configuration of training; its seed is the first.
        seeds: Runs, with consecutive seeds; the first is exported and served.
        overlap_stride: Step of the overlapping training windows; 0 for none.
    """

    output_dir: str
    cache_dir: str | None = None
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    seeds: int = 3
    overlap_stride: int = 0


class _Steps:
    """Announces and times the steps."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        print(f"\n[{self.names.index(name) + 1}/{len(self.names)}] {name}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)
        print(f"    {self.seconds[name]:.1f} s", flush=True)


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Runs every step, prints a summary and writes `report.json`.

    Returns:
        The report.
    """
    steps = _Steps(["fetch-data", "build-lists", "preprocess", "train", "evaluate", "export", "serve"])
    root = config.output_dir
    raw, lists = os.path.join(root, "raw"), os.path.join(root, "lists")
    os.makedirs(root, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(root, "report.json"))

    from psad_tf.datasets import download, movielens
    from psad_tf.datasets.raw_data import write_raw_data
    from psad_tf.datasets.windows import WindowRules

    with steps("fetch-data"):
        folder = download.fetch(download.MOVIELENS_100K, config.cache_dir)
        print(f"    MovieLens-100K in {folder}")
    with steps("build-lists"):
        rules = WindowRules(overlap_stride=config.overlap_stride)
        counts = write_raw_data(movielens.build_raw_data(movielens.read_movielens(folder), rules), raw)
        print("    " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) + f" in {raw}")

    from psad_tf.beam.pipeline import preprocess
    from psad_tf.features import load_declaration

    with steps("preprocess"):
        manifest = preprocess(raw, lists, load_declaration(os.path.join(raw, "features.json")))
        overlapping = _overlapping_lists(raw)
        counted = dict(manifest["lists"])
        counted["train"] -= overlapping
        made = ", ".join(f"{count:,} {split}" for split, count in counted.items())
        print(f"    {made} lists, and {overlapping:,} overlapping training lists, in {lists}")

    from psad_tf.training.trainer import train

    runs = []
    with steps("train"):
        shutil.rmtree(os.path.join(root, "runs"), ignore_errors=True)
        for seed in range(config.train.seed, config.train.seed + config.seeds):
            print(f"    seed {seed}", flush=True)
            settings = dataclasses.replace(config.train, seed=seed)
            runs.append(
                train(lists, os.path.join(root, "runs", f"seed-{seed}"), settings, overwrite=True).run_dir
            )

    from psad_tf.evaluation.evaluate import evaluate_run

    with steps("evaluate"):
        means = [evaluate_run(run, lists, "test").means() for run in runs]
        for run, each in zip(runs, means, strict=True):
            row = "  ".join(f"{model} {values['ndcg@10']:.4f}" for model, values in each.items())
            print(f"    {run}: test NDCG@10  {row}")

    from psad_tf.export.inspect import summarize
    from psad_tf.export.saved_model import export_saved_model
    from psad_tf.training.run_folder import load_psad

    with steps("export"):
        shutil.rmtree(os.path.join(root, "serving"), ignore_errors=True)
        exported = export_saved_model(runs[0], os.path.join(root, "serving"), lists_dir=lists)
        summary = summarize(exported)
        _, model, _ = load_psad(runs[0])
        full = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
        print(f"    {summary.parameters_exported:,} of {full:,} parameters in {exported}")

    from psad_tf.evaluation.served import compare_over_grpc

    with steps("serve"):
        served = compare_over_grpc(runs[0], exported, lists, "test")
        print(
            f"    {served.requests} requests over gRPC: largest difference {served.max_abs_diff:.1e}, "
            f"median {served.p50_ms:.2f} ms, p99 {served.p99_ms:.2f} ms"
        )

    report = {
        "data": {
            "lists": counted,
            "overlapping_training_lists": overlapping,
            "candidates": manifest["candidates"],
        },
        "metrics": means[0],
        "seeds": _spread(means),
        "serving": {
            "requests": served.requests,
            "max_abs_diff": served.max_abs_diff,
            "max_abs_score": served.max_abs_score,
            "p50_ms": served.p50_ms,
            "p99_ms": served.p99_ms,
        },
        "export": {
            "parameters_full": full,
            "parameters_exported": summary.parameters_exported,
            "contains_teacher": summary.contains_teacher,
        },
        "seconds": {**steps.seconds, "total": round(sum(steps.seconds.values()), 2)},
        "memory_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    path = os.path.join(root, "report.json")
    write_json(path, report)
    _print_summary(report, served.rankings, raw, root, exported)
    return report


def _overlapping_lists(raw: str) -> int:
    """Training lists besides those that the protocol cuts."""
    lists = read_json_lines(os.path.join(raw, "impressions.jsonl"))
    return sum(each["request_id"].endswith("-overlapping") for each in lists)


def _spread(means: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """{model: {metric: {mean, std, values}}} over the seeds; std of the sample."""
    spread: dict[str, Any] = {"count": len(means)}
    for model in means[0]:
        spread[model] = {}
        for metric in METRICS:
            values = [each[model][metric] for each in means]
            std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            spread[model][metric] = {"mean": float(np.mean(values)), "std": std, "values": values}
    return spread


def _print_summary(
    report: Mapping[str, Any],
    rankings: Mapping[str, Sequence[str]],
    raw: str,
    root: str,
    exported: str,
) -> None:
    """Three users' lists before and after, the metric table, and where everything lies.

    `rankings` are the served answers: item ids, best first, by request id.
    """
    items = read_json_lines(os.path.join(raw, "items.jsonl"))
    titles = {item["item_id"]: item.get("title", item["item_id"]) for item in items}
    impressions = read_json_lines(os.path.join(raw, "impressions.jsonl"))
    tested = [each for each in impressions if each.get("split") == "test"]
    mixed = [each for each in tested if 0 < _liked(each).count(True) < len(each["candidates"])]
    print("\nThree test users, the first five of twenty before and after (* liked: rated 4 or 5)")
    for impression in mixed[:: max(1, len(mixed) // _SHOWN_USERS)][:_SHOWN_USERS]:
        liked = dict(zip((c["item_id"] for c in impression["candidates"]), _liked(impression), strict=True))
        before = [c["item_id"] for c in impression["candidates"]][:_SHOWN_ITEMS]
        after = list(rankings[impression["request_id"]])[:_SHOWN_ITEMS]
        counts = [sum(liked[item] for item in each) for each in (before, after)]
        print(
            f"\n  user {impression['user_id']}: liked among the first five: "
            f"{counts[0]} before, {counts[1]} after"
        )
        for left, right in zip(before, after, strict=True):
            print(f"    {_cell(titles[left], liked[left])}  {_cell(titles[right], liked[right])}".rstrip())
    seeds = report["seeds"]
    print(f"\nTest lists, mean over {seeds['count']} seeds (± standard deviation)")
    print(f"  {'':8}" + "".join(f"{metric:>17}" for metric in METRICS))
    for model in ("initial", "teacher", "student"):
        cells = (seeds[model][metric] for metric in METRICS)
        print(f"  {model:8}" + "".join(f"{cell['mean']:>8.4f} ± {cell['std']:.4f}" for cell in cells))
    print("\nWhere everything lies")
    for what, where in (
        ("raw records", raw),
        ("lists", os.path.join(root, "lists")),
        ("runs", f"{os.path.join(root, 'runs')} (curves: tensorboard --logdir {os.path.join(root, 'runs')})"),
        ("SavedModel", exported),
        ("report", os.path.join(root, "report.json")),
    ):
        print(f"  {what:12}{where}")
    seconds, memory = report["seconds"]["total"], report["memory_peak_mib"]
    print(f"\nDone in {seconds / 60:.1f} minutes; {memory:,} MiB of memory at most")


def _liked(impression: Mapping[str, Any]) -> list[bool]:
    return [candidate["feedback"]["rating"] >= 4.0 for candidate in impression["candidates"]]


def _cell(title: str, liked: bool) -> str:
    return f"{'*' if liked else ' '} {title[:36]:36}"
