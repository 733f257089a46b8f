"""Speed, memory and shuffled bytes of the Beam job, against a plain writer, over logs of growing size.

    python -m benchmarks.bench_beam --lists 10000 100000 1000000

Logs come from the simulator. Every measurement is a process of its own. Speed is lists per second of wall
time, and per second of CPU of all processes, which other work on the machine disturbs less; importing
packages in this process is left out, starting workers is not. On Flink `worker_cpu_seconds` of `beam.json`
are the Python workers', the rest Flink's own processes'. Memory is the peak resident size of the largest
worker: the process itself, where it is the only one; on Flink a Python worker. Shuffled are the bytes that
enter a GroupByKey (on Flink, all that tasks send), temporary those that sorting writes to disk, both over the
size of the raw logs. Growth is against the row above: how many times the lists, the CPU time and the peak
memory.

A finished measurement is kept in `results.jsonl` of `--work_dir`: a benchmark that is started again measures
what is missing, and all of it when the code of the Beam job or of `psad_tf/data` has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import glob
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

from benchmarks.common import (
    RESULTS_DIR,
    WORK_DIR,
    ResultStore,
    code_fingerprint,
    markdown_table,
    one_line_errors,
    read_json,
    save_figure,
)
from psad_tf.errors import InputError
from psad_tf.features import load_declaration
from psad_tf.files import write_json

PLAIN, BEAM, PROCESSES = "plain writer", "Beam, one process", "Beam, two worker processes"
FLINK = "Beam, Flink with two task managers"
ENGINES = (PLAIN, BEAM, PROCESSES, FLINK)
LEVEL = 4  # of zlib: files of the size that the job writes (its own default, by ISA-L)
LISTS_A_SHARD = 5_000
JARS = os.path.join(".cache", "flink", "jars")


def main() -> None:
    """Measures what is asked for, prints the table and writes `beam.json` and `beam.png`."""
    parser = argparse.ArgumentParser(description="Measure the Beam job against a plain writer.")
    parser.add_argument(
        "--lists", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="lists in the logs"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--work_dir", default=os.path.join(WORK_DIR, "beam"), help="logs and outputs")
    parser.add_argument("--results_dir", default=RESULTS_DIR)
    parser.add_argument("--measure", nargs=3, metavar=("ENGINE", "RAW", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with one_line_errors():
        if arguments.measure:
            print(json.dumps(measure(*arguments.measure)))
            return
        path = os.path.join(arguments.results_dir, "beam.json")
        results = read_json(path, {})
        store = ResultStore(os.path.join(arguments.work_dir, "results.jsonl"))
        code = [
            code_fingerprint(["*.py", "transforms/*.py"], "psad_tf.beam"),
            code_fingerprint(["data/*.py"]),
        ]
        for lists in sorted(arguments.lists):
            for engine in arguments.engines:
                measured = functools.partial(measured_alone, engine, lists, arguments.work_dir)
                found = store.result({"engine": engine, "lists": lists, "code": code}, measured)
                results.setdefault(engine, {})[str(lists)] = found
                print(f"{lists:>9,} lists  {engine}: {found['lists_per_second']:,.0f} lists/s", flush=True)
                write_json(path, results)
        if PLAIN in arguments.engines and BEAM in arguments.engines:
            fewest = min(arguments.lists)
            raw = simulated_logs(arguments.work_dir, fewest)
            compared = functools.partial(check_equal, raw, arguments.work_dir)
            store.result({"equal": fewest, "code": code}, compared)
            print(f"The plain writer and the Beam job write equal lists ({fewest:,} compared)")
        print(table(results))
        picture = os.path.join(arguments.results_dir, "beam.png")
        draw(results, picture)
        print(f"Wrote {path} and {picture}")


def simulated_logs(work_dir: str, lists: int) -> str:
    """A raw data folder of so many lists; made when it is not there."""
    folder = os.path.join(work_dir, f"raw-{lists}")
    if not os.path.isdir(folder):
        from psad_tf.datasets.simulator import SimulatorConfig, simulate

        simulate(folder, SimulatorConfig(lists=lists), progress=True)
    return folder


def measured_alone(engine: str, lists: int, work_dir: str) -> dict[str, Any]:
    """The measurement of one engine on so many lists, in a new process."""
    raw, output = simulated_logs(work_dir, lists), os.path.join(work_dir, "output")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.bench_beam", "--measure", engine, raw, output]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{engine} on {raw}: ended with code {done.returncode}: {done.stderr[-2000:]}")
    shutil.rmtree(output, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(engine: str, raw: str, output: str) -> dict[str, Any]:
    """Runs one engine in this process and reads the clock, the memory and the bytes that travel."""
    declaration = load_declaration(os.path.join(raw, "features.json"))
    flags: list[str] = []
    if engine == PLAIN:
        from tensorflow_serving.apis import input_pb2  # noqa: F401 (imported before the clock starts)

        from benchmarks.plain_writer import write_lists

        def run() -> int:
            return write_lists(raw, output, declaration, LEVEL)
    else:
        from psad_tf.beam.options import PreprocessOptions
        from psad_tf.beam.pipeline import preprocess

        with open(os.path.join(raw, "impressions.jsonl"), "rb") as file:
            lists = sum(1 for _ in file)
        options = PreprocessOptions(num_shards=max(4, lists // LISTS_A_SHARD))

        def run() -> int:
            manifest = preprocess(raw, output, declaration, options=options, pipeline_options=flags)
            return manifest["counts"]["written"]

    if engine == PROCESSES:
        flags += ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    watch = Watch()
    with on_flink(flags, watch) if engine == FLINK else contextlib.nullcontext():
        before = _own_memory()
        cpu, wall = _cpu_seconds(), time.perf_counter()
        with watch.counted():
            lists = run()
        seconds = time.perf_counter() - wall
        cpu_seconds = _cpu_seconds() - cpu + watch.cpu_seconds()
    peak = resource.getrusage(
        resource.RUSAGE_CHILDREN if engine == PROCESSES else resource.RUSAGE_SELF
    ).ru_maxrss
    raw_bytes = sum(entry.stat().st_size for entry in os.scandir(raw))
    return {
        "lists": lists,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "worker_cpu_seconds": watch.worker_cpu_seconds() if engine == FLINK else None,
        "lists_per_second": lists / seconds,
        "lists_per_cpu_second": lists / cpu_seconds,
        "peak_bytes": watch.peak_bytes if engine == FLINK else peak * 1024,
        "start_bytes": before,
        "shuffled_share": None if engine in (PLAIN, PROCESSES) else watch.shuffled_bytes / raw_bytes,
        "temporary_share": watch.temporary_bytes / raw_bytes if engine == BEAM else None,
        "cores": os.cpu_count(),
    }


class Watch:
    """Counts what travels and is written in this process, and reads the processes of a Flink cluster."""

    def __init__(self) -> None:
        self.shuffled_bytes = self.temporary_bytes = self.peak_bytes = 0
        self._cpu: dict[int, float] = {}
        self._workers: set[int] = set()
        self._pids: list[int] = []
        self._ended = threading.Event()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts the bytes that enter a GroupByKey of the in-memory runner, and those that sorting writes."""
        from psad_tf.beam.compat import counting_shuffled
        from psad_tf.beam.transforms.sort_values import _Spilled

        add = _Spilled.add

        def counted_add(spilled: Any, values: Any) -> None:
            add(spilled, values)
            self.temporary_bytes += os.path.getsize(spilled._runs[-1])

        def shuffled(size: int) -> None:
            self.shuffled_bytes += size

        with counting_shuffled(shuffled), mock.patch.object(_Spilled, "add", counted_add):
            yield

    def follow(self, pids: Iterable[int]) -> None:
        """Starts to read CPU time and memory of processes and of those that they start."""
        self._pids = list(pids)
        self._read()
        self._start = dict(self._cpu)
        threading.Thread(target=self._follow, daemon=True).start()

    def cpu_seconds(self) -> float:
        """CPU time of the processes since `follow`, with that of those that have ended since."""
        self._ended.set()
        if not self._pids:
            return 0.0
        self._read()
        return sum(self._cpu.values()) - sum(self._start.values())

    def worker_cpu_seconds(self) -> float:
        """The part of `cpu_seconds` that Python workers took, and not Flink's own processes."""
        return sum(self._cpu[pid] for pid in self._workers)

    def _follow(self) -> None:
        while not self._ended.wait(0.5):
            self._read()

    def _read(self) -> None:
        import psutil

        for pid in self._pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(pid)
                for process in (top, *top.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = process.cpu_times()
                        self._cpu[process.pid] = times.user + times.system
                        if process.pid != pid:  # a Python worker
                            self._workers.add(process.pid)
                            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)


@contextlib.contextmanager
def on_flink(flags: list[str], watch: Watch) -> Iterator[None]:
    """Starts a cluster, adds Beam's options for it to `flags`, watches it and stops it."""
    from psad_tf.beam.flink import cluster

    with tempfile.TemporaryDirectory(prefix="psad-flink-") as folder:
        state = cluster.start(folder, JARS)
        flags += state["beam_options"]
        watch.follow(state["pids"].values())
        try:
            yield
            for job in cluster.get(state, "/jobs")["jobs"]:
                for vertex in cluster.get(state, f"/jobs/{job['id']}")["vertices"]:
                    watch.shuffled_bytes += vertex["metrics"]["write-bytes"]
        finally:
            cluster.stop(folder)


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
                    _share(found.get("shuffled_share")),
                    _share(found.get("temporary_share")),
                    _growth(smaller, found),
                ]
            )
            smaller = found
    header = ["engine", "lists", "lists/s", "lists/CPU s", "of plain, per CPU s", "peak MiB of a worker"]
    header += ["shuffled / raw", "temporary / raw", "growth: lists, CPU, memory"]
    return markdown_table(header, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))
    speed, memory = figure.subplots(1, 2)
    for engine in ENGINES:
        found = sorted((int(lists), each) for lists, each in results.get(engine, {}).items())
        if not found:
            continue
        sizes = [lists for lists, _ in found]
        speed.plot(sizes, [each["lists_per_cpu_second"] for _, each in found], "o-", label=engine)
        memory.plot(sizes, [each["peak_bytes"] / 2**20 for _, each in found], "o-", label=engine)
    speed.set(title="Speed", xlabel="lists", ylabel="lists per CPU second", xscale="log", ylim=(0, None))
    memory.set(title="Peak memory of a worker", xlabel="lists", ylabel="MiB", xscale="log", ylim=(0, None))
    memory.legend(loc="upper left")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
