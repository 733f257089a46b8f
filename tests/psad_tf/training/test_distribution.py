"""Runs in processes of their own: killed and resumed, and shared out over workers."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.config import DataConfig, TrainConfig
from tests import tiny
from tests.psad_tf.training.train_process import psad_train

SETTINGS = dataclasses.replace(
    tiny.smallest(slots=8, dropout=0.1),
    data=DataConfig(batch_size=16, list_sizes=(8,)),
    epochs=2,
    checkpoint_steps=6,
)
STEPS = 24  # 192 training lists, 12 batches, 2 epochs

# Forks of a process that has imported TensorFlow, which takes seconds, and has not used it yet.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([psad_train.__module__])

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.timeout(900)]


def start(
    lists_dir,
    run: pathlib.Path,
    config: TrainConfig,
    *more: str,
    kill: tuple[str, int] | None = None,
    **environment: str,
) -> BaseProcess:
    path = run.parent / f"{run.name}.json"
    path.write_text(json.dumps(config.to_dict()))
    options = ["--lists_dir", str(lists_dir), "--output_dir", str(run), "--config", str(path), *more]
    process = PROCESSES.Process(target=psad_train, args=(options, kill, environment), daemon=True)
    # As the command does before it imports TensorFlow: with these kernels sums are rounded differently.
    with mock.patch.dict(os.environ, TF_ENABLE_ONEDNN_OPTS="0"):
        process.start()
    return process


def end_of(process: BaseProcess, seconds: float = 240) -> int | None:
    """Its exit code, None where it runs longer."""
    process.join(seconds)
    return process.exitcode


def weights(run: pathlib.Path) -> dict[str, np.ndarray]:
    """Every number of the last checkpoint: weights, the optimizer's, counters."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(run / "checkpoints")))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {
        name: np.asarray(value)
        for name, value in tensors.items()
        if "save_counter" not in name and np.asarray(value).dtype.kind in "fiu"
    }


def history(run: pathlib.Path) -> list[dict]:
    epochs = json.loads((run / "history.json").read_text())
    for epoch in epochs:
        del epoch["seconds"]
    return epochs


def assert_equal_bit_for_bit(one: pathlib.Path, other: pathlib.Path) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys() and len(expected) > 20
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


@pytest.fixture(scope="module")
def straight(lists_dir, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    assert end_of(start(lists_dir, run, SETTINGS)) == 0
    return run


def test_a_run_killed_by_sigkill_at_random_steps_ends_in_the_same_weights(lists_dir, straight, tmp_path):
    run, every = tmp_path / "run", SETTINGS.checkpoint_steps
    first = random.randint(1, every - 1)  # before a checkpoint
    second = random.randint(every, STEPS - 4)
    save = random.randrange(second + every - second % every, STEPS + 1, every)
    kills = [("step", first), ("step", second), ("save", save)]
    print(f"kills: {kills}")  # shown when the test fails
    for index, kill in enumerate(kills):
        resume = ["--resume"] if index else []
        assert end_of(start(lists_dir, run, SETTINGS, *resume, kill=kill)) == -signal.SIGKILL
        assert not run.exists()
    assert end_of(start(lists_dir, run, SETTINGS, "--resume")) == 0
    assert_equal_bit_for_bit(straight, run)
    assert history(straight) == history(run)


def start_workers(lists_dir, run: pathlib.Path, *more: str) -> list[BaseProcess]:
    """Two workers on loopback."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other)]
    (run.parent / "addresses.json").write_text(json.dumps(addresses))
    return [start_worker(lists_dir, run, index, *more) for index in range(2)]


def start_worker(lists_dir, run: pathlib.Path, index: int, *more: str) -> BaseProcess:
    addresses = json.loads((run.parent / "addresses.json").read_text())
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    config = dataclasses.replace(SETTINGS, distribution="multi_worker")
    return start(lists_dir, run, config, *more, TF_CONFIG=json.dumps(cluster))


@pytest.fixture(scope="module")
def two_workers(lists_dir, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("two workers") / "run"
    assert [end_of(process, 280) for process in start_workers(lists_dir, run)] == [0, 0]
    return run


def test_two_workers_reach_the_result_of_one_on_the_same_global_batch(straight, two_workers):
    expected, found = weights(straight), weights(two_workers)
    for name, value in expected.items():
        np.testing.assert_allclose(value, found[name], atol=1e-4, err_msg=name)
    for of_one, of_two in zip(history(straight), history(two_workers), strict=True):
        norms = of_one["losses"].pop("gradient_norm"), of_two["losses"].pop("gradient_norm")
        assert norms[1] > norms[0]  # the sum of two workers' norms
        assert of_two["losses"] == pytest.approx(of_one["losses"], abs=1e-4)


def test_workers_that_are_killed_and_started_again_go_on_with_the_other_to_the_same_weights(
    lists_dir, two_workers, tmp_path
):
    run = tmp_path / "run"
    workers = start_workers(lists_dir, run, "--restarts", "2")
    for lost, step in ((0, 6), (1, 12)):
        checkpoint = tmp_path / "run.partial" / "checkpoints" / f"ckpt-{step}.index"
        until = time.monotonic() + 240
        while not checkpoint.exists() and any(each.is_alive() for each in workers):
            assert time.monotonic() < until
            time.sleep(0.01)  # waits for a file of another process
        workers[lost].kill()
        assert end_of(workers[lost]) == -signal.SIGKILL and checkpoint.exists() and not run.exists()
        workers[lost] = start_worker(lists_dir, run, lost, "--resume", "--restarts", "1")
    assert [end_of(each, 280) for each in workers] == [0, 0]
    assert_equal_bit_for_bit(two_workers, run)
