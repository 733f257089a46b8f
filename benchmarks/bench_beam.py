"""Lists a second and memory of the Beam job, against a plain writer, over logs of growing size.

    python -m benchmarks.bench_beam --lists 10000 100000 1000000

Logs come from the simulator. Every measurement is a process of its own. Speed is lists a second of wall time,
and a second of CPU of all processes, which other work on the machine disturbs less; importing packages in
this process is left out, starting worker processes is not. Memory is the peak resident size of the largest
worker: the process itself, where it is the only one. Growth is against the row above: how many times the
lists, the CPU time and the peak memory.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import RESULTS_DIR, WORK_DIR, markdown_table, one_line_errors, read_json, write_json
from psad_tf.errors import InputError
from psad_tf.features import load_declaration

PLAIN, BEAM, PROCESSES = "plain writer", "Beam, one process", "Beam, two worker processes"
ENGINES = (PLAIN, BEAM, PROCESSES)
LEVEL = 4


def main() -> None:
    """Measures what is asked for, prints the table and writes `beam.json` and `beam.png`."""
    parser = argparse.ArgumentParser(description="Measure the Beam job against a plain writer.")
    parser.add_argument("--lists", type=int, nargs="+", default=[10_000, 100_000], help="lists in the logs")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--work_dir", default=os.path.join(WORK_DIR, "beam"), help="logs and outputs")
    parser.add_argument("--results_dir", default=RESULTS_DIR)
    parser.add_argument("--measure", nargs=3, metavar=("ENGINE", "RAW", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with one_line_errors():
        if arguments.measure:
            print(json.dumps(measure(*arguments.measure)))
            return
        path = os.path.join(arguments.results_dir, "psad_tf.beam.json")
        results = read_json(path, {})
        for lists in sorted(arguments.lists):
            raw = simulated_logs(arguments.work_dir, lists)
            for engine in arguments.engines:
                found = measured_alone(engine, raw, os.path.join(arguments.work_dir, "output"))
                results.setdefault(engine, {})[str(lists)] = found
                print(f"{lists:>9,} lists  {engine}: {found['lists_per_second']:,.0f} lists/s", flush=True)
                write_json(path, results)
        if PLAIN in arguments.engines and BEAM in arguments.engines:
            fewest = min(arguments.lists)
            check_equal(simulated_logs(arguments.work_dir, fewest), arguments.work_dir)
            print(f"The plain writer and the Beam job write equal lists ({fewest:,} compared)")
        print(table(results))
        picture = os.path.join(arguments.results_dir, "psad_tf.beam.png")
        draw(results, picture)
        print(f"Wrote {path} and {picture}")


def simulated_logs(work_dir: str, lists: int) -> str:
    """A raw data folder of so many lists; made when it is not there."""
    folder = os.path.join(work_dir, f"raw-{lists}")
    if not os.path.isdir(folder):
        from psad_tf.datasets.simulator import SimulatorConfig, simulate

        simulate(folder, SimulatorConfig(lists=lists), progress=True)
    return folder


def measured_alone(engine: str, raw: str, output: str) -> dict[str, Any]:
    """The measurement of one engine, in a new process."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.bench_beam", "--measure", engine, raw, output]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{engine} on {raw}: ended with code {done.returncode}: {done.stderr[-2000:]}")
    shutil.rmtree(output, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(engine: str, raw: str, output: str) -> dict[str, Any]:
    """Runs one engine in this process and reads the clock and the memory."""
    declaration = load_declaration(os.path.join(raw, "features.json"))
    if engine == PLAIN:
        from tensorflow_serving.apis import input_pb2  # noqa: F401 (imported before the clock starts)

        from benchmarks.plain_writer import write_lists

        def run() -> int:
            return write_lists(raw, output, declaration, LEVEL)
    else:
        from psad_tf.beam.options import PreprocessOptions
        from psad_tf.beam.pipeline import preprocess

        flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

        def run() -> int:
            manifest = preprocess(
                raw, output, declaration,
                options=PreprocessOptions(compression_level=LEVEL),
                pipeline_options=flags if engine == PROCESSES else [],
            )  # fmt: skip
            return manifest["counts"]["written"]

    before = _own_memory()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    lists = run()
    seconds, cpu_seconds = time.perf_counter() - wall, _cpu_seconds() - cpu
    peak = resource.getrusage(
        resource.RUSAGE_CHILDREN if engine == PROCESSES else resource.RUSAGE_SELF
    ).ru_maxrss
    return {
        "lists": lists,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "lists_per_second": lists / seconds,
        "lists_per_cpu_second": lists / cpu_seconds,
        "peak_bytes": peak * 1024,
        "start_bytes": before,
        "cores": os.cpu_count(),
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _own_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_equal(raw: str, work_dir: str) -> None:
    """Refuses to compare unless both write the same lists.

    Raises:
        InputError: A list differs.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import input_pb2

    found = []
    for engine in (PLAIN, BEAM):
        output = os.path.join(work_dir, "equal")
        shutil.rmtree(output, ignore_errors=True)
        measure(engine, raw, output)
        files = sorted(glob.glob(os.path.join(output, "**", "*.tfrecord.gz"), recursive=True))
        lists = {}
        for data in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
            each = input_pb2.ExampleListWithContext.FromString(data)
            request_id = each.context.features.feature["request_id"].bytes_list.value[0]
            lists[request_id] = hash(each.SerializeToString(deterministic=True))
        found.append(lists)
        shutil.rmtree(output)
    if found[0] != found[1]:
        raise InputError(f"{raw}: the plain writer and the Beam job write different lists")


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    rows = []
    for engine in ENGINES:
        smaller: dict[str, Any] | None = None
        for lists, found in sorted(results.get(engine, {}).items(), key=lambda item: int(item[0])):
            rows.append(
                [
                    engine,
                    f"{int(lists):,}",
                    f"{found['lists_per_second']:,.0f}",
                    f"{found['lists_per_cpu_second']:,.0f}",
                    _relative(results, lists, found),
                    f"{found['peak_bytes'] / 2**20:,.0f}",
                    _growth(smaller, found),
                ]
            )
            smaller = found
    header = ["engine", "lists", "lists/s", "lists/CPU s", "of plain, per CPU s", "peak MiB of a worker"]
    return markdown_table([*header, "growth: lists, CPU, memory"], rows)


def _growth(smaller: dict[str, Any] | None, found: dict[str, Any]) -> str:
    if smaller is None:
        return "-"
    lists, cpu, memory = (found[key] / smaller[key] for key in ("lists", "cpu_seconds", "peak_bytes"))
    return f"x{lists:,.0f}, x{cpu:,.1f}, x{memory:.2f}"


def _relative(results: dict[str, Any], lists: str, found: dict[str, Any]) -> str:
    plain = results.get(PLAIN, {}).get(lists)
    return f"{found['lists_per_cpu_second'] / plain['lists_per_cpu_second']:.2f}" if plain else "-"


def draw(results: dict[str, Any], path: str) -> None:
    """The picture: speed and memory over the number of lists."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (speed, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for engine in ENGINES:
        found = sorted((int(lists), each) for lists, each in results.get(engine, {}).items())
        if not found:
            continue
        sizes = [lists for lists, _ in found]
        speed.plot(sizes, [each["lists_per_cpu_second"] for _, each in found], "o-", label=engine)
        memory.plot(sizes, [each["peak_bytes"] / 2**20 for _, each in found], "o-", label=engine)
    speed.set(title="Speed", xlabel="lists", ylabel="lists a CPU second", xscale="log", ylim=(0, None))
    memory.set(title="Peak memory of a worker", xlabel="lists", ylabel="MiB", xscale="log", ylim=(0, None))
    speed.legend()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
