"""Runs in processes of their own: killed and resumed, and shared out over workers."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.config import DataConfig, TrainConfig
from psad_tf.distribution import make_strategy
from psad_tf.errors import InputError
from tests import tiny

SETTINGS = dataclasses.replace(
    tiny.config(slots=8, dropout=0.1),
    data=DataConfig(batch_size=32, list_sizes=(8,)),
    epochs=2,
    checkpoint_steps=1,
)


def start(
    lists_dir, run: pathlib.Path, config: TrainConfig, *more: str, **environment: str
) -> subprocess.Popen:
    path = run.parent / f"{run.name}.json"
    path.write_text(json.dumps(config.to_dict()))
    options = ["--lists_dir", str(lists_dir), "--output_dir", str(run), "--config", str(path), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "psad_tf.cli", "train", *options],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )


def weights(run: pathlib.Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(run / "checkpoints")))
    names = reader.get_variable_to_shape_map()
    tensors = {name: reader.get_tensor(name) for name in names if "CHECKPOINTABLE" not in name}
    return {name: value for name, value in tensors.items() if value.dtype == np.float32}


@pytest.fixture(scope="module")
def straight(lists_dir, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    assert start(lists_dir, run, SETTINGS).wait(240) == 0
    return run


def test_a_run_killed_by_sigkill_and_resumed_ends_in_the_same_weights(lists_dir, straight, tmp_path):
    run = tmp_path / "run"
    process = start(lists_dir, run, SETTINGS)
    index = tmp_path / "run.partial" / "checkpoints" / "ckpt-2.index"
    until = time.monotonic() + 240
    while not index.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)  # waits for a file of another process
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert index.exists() and not run.exists()
    assert start(lists_dir, run, SETTINGS, "--resume").wait(240) == 0
    expected, found = weights(straight), weights(run)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_two_workers_reach_the_result_of_one_on_the_same_global_batch(lists_dir, straight, tmp_path):
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other)]
    config = dataclasses.replace(SETTINGS, distribution="multi_worker")
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(start(lists_dir, tmp_path / "run", config, TF_CONFIG=json.dumps(cluster)))
    assert [process.wait(280) for process in processes] == [0, 0]
    expected, found = weights(straight), weights(tmp_path / "run")
    for name, value in expected.items():
        np.testing.assert_allclose(value, found[name], atol=1e-4, err_msg=name)


def test_a_cluster_that_is_not_named_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match="TF_CONFIG"):
        make_strategy("multi_worker", jit_compile=False, batch_size=8)


def test_xla_with_exchange_of_gradients_on_cpus_is_refused():
    with pytest.raises(InputError, match="jit_compile"):
        make_strategy("mirrored", jit_compile=True, batch_size=8)
