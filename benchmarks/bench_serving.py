"""The embedded server under load: python -m benchmarks.bench_serving

Exports a trained run (by default `make demo`'s) as plain, XLA and float16 SavedModels, and its teacher the
same way; serves them in a process of their own; sends real lists of N candidates over loopback. Writes to
--output_dir

    serving.json  {"machine", "variants", "overhead", "load", "batching", "teacher", "memory", "reliability"}
    serving.md    the same as tables
    serving.png   throughput and latency against the number of clients, with and without batching

Throughput is measured with all clients busy; latencies in open loop at 60% of that (see serving_load.py).
Server and load generator share the machine's CPUs, but for the section "batching", where each has its half.
--sections runs some parts only and keeps the results of the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.common import (
    RESULTS_DIR,
    WORK_DIR,
    markdown_table,
    one_line_errors,
    read_json,
    save_figure,
    write_text,
)
from psad_tf.errors import InputError
from psad_tf.files import write_json

SECTIONS = ("variants", "overhead", "load", "batching", "teacher", "memory", "reliability")
_OPEN_LOOP_SHARE = 0.6
_BATCHING_CLIENTS = 32
_BATCHING_ROUNDS = 3


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--run_dir", default=os.path.join("runs", "demo", "runs", "seed-1"), help="a trained run")
    add("--lists_dir", default=os.path.join("runs", "demo", "lists"), help="its lists")
    add("--candidates", nargs="+", type=int, default=[20, 50, 100], help="N")
    add("--clients", nargs="+", type=int, default=[1, 4, 16, 32, 64], help="requests under way at most")
    add("--seconds", type=float, default=4.0, help="length of each measurement")
    add("--memory_requests", type=int, default=100_000, help="requests of the memory test")
    add("--fuzz_requests", type=int, default=10_000, help="requests of the fuzz test")
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="parts to run")
    add("--output_dir", default=RESULTS_DIR, help="folder of the results")
    add("--work_dir", default=os.path.join(WORK_DIR, "serving"), help="folder of the exported models")
    options = parser.parse_args(arguments)
    with one_line_errors():
        if not os.path.isdir(options.run_dir) or not os.path.isdir(options.lists_dir):
            raise InputError(
                f"{options.run_dir}, {options.lists_dir}: no trained run with its lists; 'make demo' makes "
                "them, or name others with --run_dir and --lists_dir"
            )
        run(options)


def run(options: argparse.Namespace) -> None:
    """Runs the sections and writes the results after each."""
    import psutil

    from benchmarks import serving_setup

    os.makedirs(options.work_dir, exist_ok=True)
    os.makedirs(options.output_dir, exist_ok=True)
    path = os.path.join(options.output_dir, "serving.json")
    found: dict[str, Any] = read_json(path, {})
    paths = serving_setup.export_all(options.run_dir, options.lists_dir, options.work_dir, options.candidates)
    found["machine"] = {"cpus": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)}
    sections = {
        "variants": variants,
        "overhead": overhead,
        "load": load,
        "batching": batching,
        "teacher": teacher,
        "memory": memory,
        "reliability": reliability,
    }
    for name in SECTIONS:
        if name in options.sections:
            print(f"--- {name} (load average {os.getloadavg()[0]:.1f})", flush=True)
            found[name] = sections[name](options, paths)
            found.setdefault("load_average", {})[name] = round(os.getloadavg()[0], 1)
            write_json(path, found)
    text = tables(found)
    write_text(os.path.join(options.output_dir, "serving.md"), text)
    if "load" in found:
        draw(found["load"], os.path.join(options.output_dir, "serving.png"))
    print(text)
    print(f"written: {path}, serving.md and serving.png beside it")


def variants(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Size, latency in process, difference from the run and NDCG@10 of each exported variant."""
    from benchmarks.serving_setup import VARIANTS
    from psad_tf.data.list_folder import load_manifest
    from psad_tf.export.parity import check_parity

    count = load_manifest(options.lists_dir)["lists"]["test"]
    result = {}
    for name in VARIANTS:
        parity = check_parity(options.run_dir, paths[name], options.lists_dir, n=count)
        result[name] = parity.to_dict() | {"weights_bytes": _weights(paths[name])}
        print(f"{name}: difference {max(parity.max_abs_diff.values()):.1e}, NDCG@10 {parity.ndcg_at_10:.4f}")
    return result


def _weights(path: str) -> int:
    folder = os.path.join(path, "variables")
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))


def overhead(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Median of one call in process and of the same call over gRPC, taken in turns."""
    import grpc
    import numpy as np
    import tensorflow as tf

    from benchmarks.serving_load import PREDICT
    from benchmarks.serving_setup import lists_of, serving, write_requests
    from benchmarks.timing import interleaved

    result: dict[str, Any] = {}
    loaded = {name: tf.saved_model.load(paths[name]) for name in ("plain", "xla")}
    models = {name: paths[name] for name in loaded}
    with serving(options.work_dir, models) as server, grpc.insecure_channel(server.address) as channel:
        predict = channel.unary_unary(PREDICT)
        for candidates in options.candidates:
            lists = lists_of(options.lists_dir, candidates, 1)
            examples = tf.constant(lists)
            calls = {}
            for name, model in loaded.items():
                request = write_requests(os.path.join(options.work_dir, "one.txt"), name, lists)[0]
                signature = model.signatures["rerank_examples"]
                calls[f"{name} in process"] = functools.partial(signature, examples=examples)
                calls[f"{name} over gRPC"] = functools.partial(predict, request, timeout=30)
            seconds = interleaved(calls, rounds=400)
            result[f"n{candidates}"] = {
                name: {
                    "in_process_ms": 1e3 * float(np.median(seconds[f"{name} in process"])),
                    "grpc_ms": 1e3 * float(np.median(seconds[f"{name} over gRPC"])),
                }
                for name in loaded
            }
            print(f"N={candidates}: {result[f'n{candidates}']}", flush=True)
    return result


def load(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Throughput and latency by number of clients and candidates, alone and batched."""
    from benchmarks.serving_setup import BATCHING, lists_of, serving, write_requests

    result: dict[str, Any] = {}
    for mode, model, batching in (
        ("alone", "plain", None),
        ("batched", "plain", BATCHING),
        ("alone xla", "xla", None),
        ("batched xla", "xla", BATCHING),
    ):
        with serving(options.work_dir, {model: paths[model]}, batching) as server:
            for candidates in options.candidates:
                file = os.path.join(options.work_dir, f"requests-{candidates}.txt")
                write_requests(file, model, lists_of(options.lists_dir, candidates))
                for clients in options.clients:
                    point = _point(server, file, clients, options.seconds)
                    result.setdefault(mode, {}).setdefault(f"n{candidates}", {})[str(clients)] = point
                    print(
                        f"{mode:12} N={candidates:<4} clients={clients:<3} {point['throughput']:7.0f}/s  "
                        f"p50 {point['p50_ms']:.2f}  p99 {point['p99_ms']:.2f}  p99.9 "
                        f"{point['p999_ms']:.2f} ms  CPU {point['server_cpu_ms']:.2f} ms",
                        flush=True,
                    )
    return result


def _point(server: Any, file: str, clients: int, seconds: float) -> dict[str, Any]:
    busy = _measure(server, file, clients=clients, seconds=seconds, warmup_seconds=1.5)
    rate = _OPEN_LOOP_SHARE * busy["throughput"]
    calm = _measure(server, file, clients=clients, seconds=seconds, rate=rate, warmup_seconds=0.3)
    return {
        "throughput": busy["throughput"],
        "server_cpu_ms": busy["server_cpu_ms"],
        "client_cpu_ms": busy["client_cpu_ms"],
        "failures": {**busy["failures"], **calm["failures"]},
        "rate": rate,
        **{key: calm[key] for key in ("p50_ms", "p99_ms", "p999_ms")},
        "busy": {key: busy[key] for key in ("p50_ms", "p99_ms", "p999_ms")},
    }


def batching(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Throughput with and without batching, in turns; server and load generator on CPUs of their own."""
    from benchmarks.serving_setup import BATCHING, lists_of, on_cpus, serving, write_requests

    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise InputError("section 'batching' needs two CPUs: one for the server, one for the load")
    half = len(cpus) // 2
    file = os.path.join(options.work_dir, "load.txt")
    result: dict[str, Any] = {"server_cpus": half, "clients": _BATCHING_CLIENTS}
    for candidates in options.candidates:
        write_requests(file, "plain", lists_of(options.lists_dir, candidates))
        points = result[f"n{candidates}"] = {"alone": [], "batched": []}
        for _ in range(_BATCHING_ROUNDS):
            for mode, settings in (("alone", None), ("batched", {**BATCHING, "num_batch_threads": half})):
                with (
                    on_cpus(cpus[:half]),
                    serving(options.work_dir, {"plain": paths["plain"]}, settings) as server,
                    on_cpus(cpus[half:]),
                ):
                    point = _measure(
                        server, file, clients=_BATCHING_CLIENTS, seconds=options.seconds, warmup_seconds=1.5
                    )
                points[mode].append({key: point[key] for key in ("throughput", "server_cpu_ms", "failures")})
                print(f"N={candidates} {mode}: {point['throughput']:.0f}/s", flush=True)
    return result


def _measure(server: Any, file: str, **settings: Any) -> dict[str, Any]:
    """One load; adds the server's CPU time for each answer."""
    from benchmarks.serving_setup import cpu_seconds, run_load

    process, arguments = run_load(server.address, file, **settings)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "started":
        raise InputError(f"the load generator failed: {' '.join(arguments)}")
    before = cpu_seconds(server.process)
    answer = json.loads(process.stdout.readline())
    used = cpu_seconds(server.process) - before
    process.wait(30)
    answer["server_cpu_ms"] = 1e3 * used / max(answer["answered"], 1)
    return answer


def teacher(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """The teacher exported the same way, against the student, in one server."""
    from benchmarks.serving_setup import TEACHER, lists_of, serving, write_requests

    result: dict[str, Any] = {}
    with serving(options.work_dir, {name: paths[name] for name in ("plain", TEACHER)}) as server:
        for candidates in options.candidates:
            for name in ("plain", TEACHER):
                file = os.path.join(options.work_dir, f"{name}-{candidates}.txt")
                write_requests(file, name, lists_of(options.lists_dir, candidates))
                point = _point(server, file, 4, options.seconds)
                result.setdefault(f"n{candidates}", {})["student" if name == "plain" else name] = point
                print(f"N={candidates} {name}: {point['throughput']:.0f}/s, p50 {point['p50_ms']:.2f} ms")
    return result


def memory(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Resident memory of the server over many requests, batched, lists of all sizes mixed."""
    from benchmarks.serving_setup import BATCHING, lists_of, run_load, serving, write_requests

    file = os.path.join(options.work_dir, "mixed.txt")
    lists = [each for n in (5, 20, 50) for each in lists_of(options.lists_dir, n, 20)]
    write_requests(file, "plain", lists)
    answered, readings = 0, []
    with serving(options.work_dir, {"plain": paths["plain"]}, BATCHING) as server:
        while answered < options.memory_requests:
            process, _ = run_load(server.address, file, clients=16, seconds=10, warmup_seconds=0)
            assert process.stdout is not None
            process.stdout.readline()
            answer = json.loads(process.stdout.readline())
            process.wait(30)
            if answer["failures"]:
                raise InputError(f"requests failed in the memory test: {answer['failures']}")
            answered += answer["answered"]
            readings.append((answered, server.process.memory_info().rss / 2**20))
            print(f"{answered:>8} requests: {readings[-1][1]:.0f} MiB", flush=True)
    settled = [mib for count, mib in readings if count >= answered // 3] or [readings[-1][1]]
    return {
        "requests": answered,
        "readings": [[count, round(mib, 1)] for count, mib in readings],
        "growth_mib": round(settled[-1] - settled[0], 1),
    }


def reliability(options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """Kill and restart under load, 20 swaps under load, fuzzed requests: the long versions of the tests."""
    from benchmarks import serving_reliability

    result: dict[str, Any] = {
        "kill": serving_reliability.kill_and_restart(options.work_dir, paths["plain"]),
        "swaps": serving_reliability.swap(options.work_dir, paths["plain"], options.lists_dir, swaps=20),
        "fuzz": serving_reliability.fuzz(
            options.work_dir, paths["plain"], options.lists_dir, options.fuzz_requests
        ),
    }
    return {name: dataclasses.asdict(each) for name, each in result.items()}


def tables(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    parts = []
    if "variants" in found:
        rows = [
            [
                name,
                f"{max(facts['max_abs_diff'].values()):.1e}",
                f"{facts['ndcg_at_10']:.4f}",
                f"{facts['ndcg_at_10'] - facts['ndcg_at_10_in_process']:+.4f}",
                f"{facts['latency_ms']['rerank_examples']:.2f}",
                f"{facts['weights_bytes'] / 2**20:.2f}",
            ]
            for name, facts in found["variants"].items()
        ]
        header = ["variant", "max difference", "NDCG@10", "change", "median ms", "weights MiB"]
        parts += ["Exported variants on all test lists", markdown_table(header, rows)]
    if "overhead" in found:
        rows = [
            [f"{size[1:]}, {name}", f"{v['in_process_ms']:.2f}", f"{v['grpc_ms']:.2f}",
             f"{v['grpc_ms'] - v['in_process_ms']:.2f}"]
            for size, each in found["overhead"].items()
            for name, v in each.items()
        ]  # fmt: skip
        parts += [
            "One list, one client: median ms",
            markdown_table(["N", "in process", "gRPC", "added"], rows),
        ]
    if "load" in found:
        rows = [
            [f"{mode}, N={size[1:]}", clients, f"{p['throughput']:.0f}", f"{p['p50_ms']:.2f}",
             f"{p['p99_ms']:.2f}", f"{p['p999_ms']:.2f}", f"{p['server_cpu_ms']:.2f}",
             f"{p['client_cpu_ms']:.2f}"]
            for mode, sizes in found["load"].items()
            for size, points in sizes.items()
            for clients, p in points.items()
        ]  # fmt: skip
        header = ["server", "clients", "lists/s", "p50 ms", "p99 ms", "p99.9 ms"]
        header += ["server CPU ms", "client CPU ms"]
        title = "Load (latencies at 60% of the throughput; CPU time a request, on the same cores)"
        parts += [title, markdown_table(header, rows)]
    if "batching" in found:
        parts += [
            f"Batching, {found['batching']['clients']} clients, server and load generator on their own CPUs",
            _batching_table(found["batching"]),
        ]
    if "teacher" in found:
        rows = [
            [
                f"{size[1:]}, {name}",
                f"{p['throughput']:.0f}",
                f"{p['p50_ms']:.2f}",
                f"{p['server_cpu_ms']:.2f}",
            ]
            for size, each in found["teacher"].items()
            for name, p in each.items()
        ]
        header = ["N", "lists/s", "p50 ms", "CPU ms"]
        parts += ["Student and teacher served the same way, 4 clients", markdown_table(header, rows)]
    if "memory" in found:
        facts = found["memory"]
        first, last = facts["readings"][0][1], facts["readings"][-1][1]
        parts.append(
            f"Memory over {facts['requests']:,} requests: {first:.0f} MiB after the first ten seconds, "
            f"{last:.0f} MiB at the end, {facts['growth_mib']:+.1f} MiB over the last two thirds."
        )
    if "reliability" in found:
        rows = [[name, json.dumps(facts)] for name, facts in found["reliability"].items()]
        parts += ["Reliability", markdown_table(["test", "found"], rows)]
    return "\n\n".join(parts)


def _batching_table(found: Mapping[str, Any]) -> str:
    rows = []
    for size in (key for key in found if key.startswith("n")):
        alone, batched = (
            {key: [point[key] for point in found[size][mode]] for key in ("throughput", "server_cpu_ms")}
            for mode in ("alone", "batched")
        )
        ratios = [b / a for a, b in zip(alone["throughput"], batched["throughput"], strict=True)]
        rows.append(
            [
                size[1:],
                *(f"{statistics.fmean(each['throughput']):.0f}" for each in (alone, batched)),
                f"{statistics.fmean(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                *(f"{statistics.fmean(each['server_cpu_ms']):.2f}" for each in (alone, batched)),
            ]
        )
    header = ["N", "alone, lists/s", "batched, lists/s", "ratio", "of the rounds", "alone, CPU ms"]
    return markdown_table([*header, "batched, CPU ms"], rows)


def draw(load: Mapping[str, Any], path: str) -> None:
    """Throughput and median latency against the number of clients."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    sizes = list(next(iter(load.values())))
    figure = Figure(figsize=(4 * len(sizes), 6))
    axes = figure.subplots(2, len(sizes), sharex=True, squeeze=False)
    for column, size in enumerate(sizes):
        for mode, results in load.items():
            clients = [int(each) for each in results[size]]
            points = results[size].values()
            axes[0][column].plot(clients, [p["throughput"] for p in points], marker="o", label=mode)
            axes[1][column].plot(clients, [p["p99_ms"] for p in points], marker="o", label=mode)
        axes[0][column].set_title(f"N = {size[1:]}")
        axes[0][column].set_ylim(bottom=0)
        axes[1][column].set_ylim(bottom=0)
        axes[1][column].set_xscale("log", base=2)
        axes[1][column].xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:.0f}"))
        axes[1][column].set_xlabel("clients")
    axes[0][0].set_ylabel("lists per second")
    axes[1][0].set_ylabel("p99 at 60% of that, ms")
    axes[0][0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
