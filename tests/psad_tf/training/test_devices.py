"""Devices: what is asked for is used or refused, and the compiled step never goes back to the host."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from psad_tf.config import DistillationConfig, OptimizerConfig
from psad_tf.errors import InputError
from psad_tf.models import psad
from psad_tf.training import devices as placement
from psad_tf.training.devices import check_placement, choose_device, host_operations
from psad_tf.training.optimizer import make_optimizer
from tests import tiny

NO_GPU = not tf.config.list_physical_devices("GPU")
ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_no_operation_of_the_compiled_step_stays_on_the_host(monkeypatch):
    """With every term of the loss, dropout, weight decay, and both kinds of updates of the tables."""
    monkeypatch.setattr(psad, "_DENSE_GRADIENT_LIMIT", 100)  # of tables of 40 x 8, 12 x 8 and 8 x 8
    config = dataclasses.replace(
        tiny.config(dropout=0.1),
        distillation=DistillationConfig(source="generated"),
        optimizer=OptimizerConfig(weight_decay=0.01),
    )
    model = tiny.model(config)
    model.compile(optimizer=make_optimizer(config.optimizer))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step).get_concrete_function(tiny.batch(4, 8))
    assert host_operations(step) == []


def test_operations_that_stay_on_the_host_are_named_wherever_they_are_called():
    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda y: y, [x], tf.float32)

    def function(x: tf.Tensor) -> tf.Tensor:
        tf.print(x)
        return inner(x) * tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32)

    concrete = tf.function(function).get_concrete_function(tf.TensorSpec([3]))
    assert {"AsString", "PrintV2", "PyFunc", "StringLength"} <= set(host_operations(concrete))
    product = tf.function(lambda x: x @ x).get_concrete_function(tf.TensorSpec([3, 3]))
    assert host_operations(product) == []


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_training_on_a_gpu_is_refused_without_one():
    with pytest.raises(InputError, match="--device gpu: TensorFlow sees no GPU: this machine has no NVIDIA"):
        choose_device("gpu")


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_a_gpu_that_tensorflow_cannot_use_is_said(monkeypatch, tmp_path, capsys):
    (tmp_path / "version").write_text("NVRM version")
    monkeypatch.setattr(placement, "_NVIDIA_DRIVER", str(tmp_path / "version"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    choose_device("auto")
    assert "requirements-gpu.txt" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"requirements-gpu\.txt"):
        choose_device("gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    choose_device("auto")
    assert capsys.readouterr().err == ""


def test_a_weight_left_on_the_host_beside_a_gpu_is_refused(monkeypatch):
    """TensorFlow is told of a GPU that is not there; the weight is real."""
    gpu = tf.config.LogicalDevice("/device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: [gpu])
    with pytest.raises(InputError, match=r"kernel:0 lies on .*CPU:0, not on a GPU"):
        check_placement([tf.Variable(0.0, name="kernel")])


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_without_a_gpu_training_is_on_the_cpu():
    assert check_placement([tf.Variable(0.0)]) == "CPU"


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z,-]+\])?==(\S+)", text, re.M))


def test_the_gpu_lock_is_the_runtime_lock_and_cudas_libraries():
    runtime, gpu = pins("requirements.txt"), pins("requirements-gpu.txt")
    assert runtime == {name: version for name, version in gpu.items() if name in runtime}
    added = set(gpu) - set(runtime)
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"} <= added
    assert all(name.startswith("nvidia-") for name in added)


@pytest.mark.process
def test_xla_says_nothing_of_its_first_compilation_once_it_was_silenced():
    code = (
        "import sys, tensorflow as tf; from psad_tf.training.devices import silence_xla; silence_xla();"
        "print('still heard', file=sys.stderr, flush=True);"
        "tf.function(lambda: tf.ones([3]) * 2, jit_compile=True)()"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "still heard" in done.stderr and "XLA" not in done.stderr
