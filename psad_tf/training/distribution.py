"""tf.distribute strategies by name, and who writes the files."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from psad_tf.errors import InputError


class WorkerLostError(RuntimeError):
    """Another worker of a distributed run is gone; start all of them again with `--resume`."""


def make_strategy(name: str, jit_compile: bool, batch_size: int) -> tf.distribute.Strategy:
    """The strategy of a configuration's `distribution`.

    Args:
        name: `none`, `mirrored` or `multi_worker`; the last reads the cluster from TF_CONFIG.
        jit_compile: Whether the step is compiled by XLA.
        batch_size: Of all replicas together.

    Raises:
        InputError: TF_CONFIG is missing or wrong, the batch cannot be shared out evenly, or XLA is asked
            for where it cannot compile a step that talks to other replicas (on CPUs).
    """
    gpus = tf.config.get_visible_devices("GPU")
    if name == "none":
        return tf.distribute.get_strategy()
    if jit_compile and not gpus:
        raise InputError(
            f"jit_compile: XLA cannot compile the exchange of gradients on CPUs; set jit_compile to false "
            f"for distribution {name!r} without GPUs"
        )
    strategy: tf.distribute.Strategy
    if name == "mirrored":
        strategy = tf.distribute.MirroredStrategy(None if gpus else _two_cpu_devices())
    else:
        _check_cluster()
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(f"data.batch_size: {batch_size} is not a multiple of the {replicas} replicas")
    return strategy


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes checkpoints and logs: the first worker, or the only process."""
    if is_only_process(strategy):
        return True
    resolver = strategy.cluster_resolver
    chief = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == chief and resolver.task_id == 0


def check_same_start(strategy: tf.distribute.Strategy, step: tf.Variable) -> None:
    """Refuses workers of which some resume and some do not: they would go on as if they were one.

    Args:
        strategy: Every worker of it must make this call.
        step: The step at which this worker starts.

    Raises:
        InputError: Another worker starts at another step.
    """
    if strategy.num_replicas_in_sync == 1 or is_only_process(strategy):
        return
    own = float(step.numpy())
    at = tf.constant(own)
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.identity(at)), axis=None)
    if float(total) != own * strategy.num_replicas_in_sync:
        raise InputError(
            f"this worker starts at step {own:.0f} and another one does not; start every worker with "
            "--resume or every worker without it"
        )


def is_only_process(strategy: tf.distribute.Strategy) -> bool:
    """Whether no other process takes part."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.cluster_spec().jobs


def _two_cpu_devices() -> list[str]:
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.list_logical_devices("CPU")) < 2:
        raise InputError(
            f"distribution 'mirrored' without GPUs needs two logical devices on {cpu.name}, made before "
            "TensorFlow starts: call psad_tf.training.distribution.split_cpu() first, as 'psad train' does"
        )
    return ["/cpu:0", "/cpu:1"]


def split_cpu() -> None:
    """Makes two logical CPU devices; only before TensorFlow has used the CPU."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def _check_cluster() -> None:
    try:
        config = json.loads(os.environ.get("TF_CONFIG", ""))
        workers, task = config["cluster"]["worker"], config["task"]
        if not 0 <= int(task["index"]) < len(workers):
            raise ValueError(f"task index {task['index']} of {len(workers)} workers")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "distribution 'multi_worker' reads the cluster from the environment variable TF_CONFIG, which "
            f"is missing or wrong ({error}); for instance "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from None
