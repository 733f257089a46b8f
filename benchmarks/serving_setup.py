"""What bench_serving measures: exported variants and teacher, requests of N candidates, a server."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import psutil
import tensorflow as tf

from psad_tf.data.list_folder import read_serialized
from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.export.saved_model import export_saved_model
from psad_tf.export.signatures import GraphOptions
from psad_tf.export.warmup import predict_request, resized_lists
from psad_tf.features import ITEM_ID
from psad_tf.files import replaced_directory
from psad_tf.serving.contract import EXAMPLES, RERANK_EXAMPLES
from psad_tf.training.run_folder import load_psad

VARIANTS: Mapping[str, GraphOptions] = {
    "plain": GraphOptions(),
    "xla": GraphOptions(jit_compile=True),
    "float16": GraphOptions(float16=True),
}
TEACHER = "teacher"
BATCHING = {
    "max_batch_size": 32,
    "batch_timeout_micros": 1000,
    "max_enqueued_batches": 64,
    "num_batch_threads": 2,
}
REQUESTS = 64


def export_all(run_dir: str, lists_dir: str, base_dir: str, candidates: Sequence[int] = ()) -> dict[str, str]:
    """Exports every variant and the teacher, each as a model of its own; gives the version folders.

    Warm-up records have the numbers of `candidates`.
    """
    paths = {}
    for name, options in VARIANTS.items():
        path = os.path.join(base_dir, name, "1")
        if not os.path.isdir(path):
            export_saved_model(
                run_dir,
                base_dir,
                model_name=name,
                version=1,
                lists_dir=lists_dir,
                warmup_candidates=candidates,
                options=options,
            )
        paths[name] = path
    paths[TEACHER] = os.path.join(base_dir, TEACHER, "1")
    if not os.path.isdir(paths[TEACHER]):
        _export_teacher(run_dir, paths[TEACHER])
    return paths


def _export_teacher(run_dir: str, path: str) -> None:
    """The teacher behind the signature of the student: the generated list as scores and ranking."""
    encoder, model, _ = load_psad(run_dir)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=EXAMPLES)], autograph=False)
    def rerank(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        raw = parse_lists(examples, encoder.declaration)
        scores = model.rank(encoder(raw))["teacher"]
        ranking = tf.argsort(scores, direction="DESCENDING", stable=True)
        return {
            "scores": tf.identity(scores),
            "ranking": tf.identity(ranking),
            "item_ids": tf.gather(raw[ITEM_ID][..., 0], ranking, batch_dims=1),
        }

    module = tf.Module()
    module.encoder, module.parameters = encoder, list(model.variables)
    with replaced_directory(path) as temporary:
        tf.saved_model.save(module, temporary, signatures={RERANK_EXAMPLES: rerank})


def lists_of(lists_dir: str, candidates: int, count: int = REQUESTS) -> list[bytes]:
    """Real lists brought to exactly N candidates."""
    return resized_lists(list(read_serialized(lists_dir, "test").as_numpy_iterator()), candidates, count)


def write_requests(path: str, model: str, lists: Sequence[bytes]) -> list[bytes]:
    """Writes PredictRequests of one list each for the load generator, and gives them."""
    requests = [
        predict_request(
            model, RERANK_EXAMPLES, {EXAMPLES: np.array([each], dtype=object)}
        ).SerializeToString()
        for each in lists
    ]
    with open(path, "wb") as file:
        file.writelines(base64.b64encode(each) + b"\n" for each in requests)
    return requests


class Server(NamedTuple):
    """A server process.

    Attributes:
        address: host:port of gRPC.
        process: To read its CPU time and memory.
    """

    address: str
    process: psutil.Process


@contextlib.contextmanager
def serving(
    work_dir: str, models: Mapping[str, str], batching: Mapping[str, int] | None = None, port: int = 0
) -> Iterator[Server]:
    """Runs `psad serve` on version folders, by model name, until the block ends."""
    config = os.path.join(work_dir, "models.config")
    with open(config, "w", encoding="utf-8") as file:
        entries = (
            f"config {{ name: '{name}' base_path: '{os.path.abspath(os.path.dirname(path))}' "
            f"model_platform: 'tensorflow' }}"
            for name, path in models.items()
        )
        file.write(f"model_config_list {{ {' '.join(entries)} }}\n")
    arguments = ["--port", str(port), "--model_config_file", config]
    if batching is not None:
        parameters = os.path.join(work_dir, "batching.txt")
        with open(parameters, "w", encoding="utf-8") as file:
            file.writelines(f"{key} {{ value: {value} }}\n" for key, value in batching.items())
        arguments += ["--enable_batching", "--batching_parameters_file", parameters]
    process = subprocess.Popen(
        [sys.executable, "-m", "psad_tf.cli", "serve", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "gRPC on" not in line:
            raise InputError(f"the server did not start (exit code {process.wait()})")
        yield Server(line.split("gRPC on ")[1].split(",")[0].strip(), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    """Processes and threads that start in the block run on these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def run_load(address: str, requests_file: str, **options: Any) -> tuple[subprocess.Popen[str], list[str]]:
    """Starts the load generator; it prints `started` when its warm-up is over."""
    arguments = [sys.executable, "-m", "benchmarks.serving_load", "--address", address]
    arguments += ["--requests", requests_file]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True), arguments
