"""Where training runs: which devices TensorFlow sees, where the weights lie, what would stay on the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import tensorflow as tf

from psad_tf.compat import kernel_devices
from psad_tf.errors import InputError

_NVIDIA_DRIVER = "/proc/driver/nvidia/version"
# Arguments of a function, and calls of the functions that a graph's library holds.
_NO_WORK = frozenset({"Placeholder", "PartitionedCall", "StatefulPartitionedCall", "NoOp"})


def choose_device(name: str) -> None:
    """Makes TensorFlow use the devices that are asked for; only before it has used any.

    Args:
        name: `auto` takes the GPUs there are; `gpu` refuses to go on without one; `cpu` leaves them alone.

    Raises:
        InputError: `gpu`, and TensorFlow sees none; the message says what is missing.
    """
    if name == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return
    if tf.config.list_physical_devices("GPU"):
        return
    if not os.path.exists(_NVIDIA_DRIVER):
        reason = "this machine has no NVIDIA driver"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        reason = "CUDA_VISIBLE_DEVICES hides it"
    else:
        reason = "its CUDA libraries are missing or do not fit: install requirements-gpu.txt"
    if name == "gpu":
        raise InputError(f"--device gpu: TensorFlow sees no GPU: {reason}")
    if "CUDA libraries" in reason:
        print(f"psad: training on the CPU: there is a GPU, but {reason}", file=sys.stderr)


def check_placement(variables: Iterable[tf.Variable]) -> str:
    """Makes sure that the weights lie on the GPUs where there are any, and says where training runs.

    Args:
        variables: The weights.

    Returns:
        `CPU`, or the GPUs with their names.

    Raises:
        InputError: A weight lies on the host though TensorFlow sees a GPU.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        return "CPU"
    for variable in variables:
        if "GPU" not in variable.device:
            raise InputError(
                f"the weight {variable.name} lies on {variable.device or 'no device'}, not on a GPU; train "
                "with --device cpu, or outside of any tf.device"
            )
    names = [
        tf.config.experimental.get_device_details(each).get("device_name", "GPU")
        for each in tf.config.get_visible_devices("GPU")
    ]
    return f"{len(gpus)} GPU ({', '.join(sorted(set(names)))})"


def host_operations(function: tf.types.experimental.ConcreteFunction) -> list[str]:
    """The kinds of operations of a function that XLA cannot compile for a GPU.

    Each of them (a lookup of strings, Python code, a print) would make a compiled step go back to the host,
    or fail to compile. The list comes from TensorFlow's registry of kernels, so no GPU is needed.

    Args:
        function: With it every function that it calls is searched.

    Returns:
        Names of operations, sorted; empty for a step that stays on its device.
    """
    definition = function.graph.as_graph_def()
    called = {each.signature.name for each in definition.library.function}
    kinds = {node.op for node in definition.node}
    kinds.update(node.op for each in definition.library.function for node in each.node_def)
    _register_xla_kernels()
    return sorted(kind for kind in kinds - called - _NO_WORK if "XLA_GPU_JIT" not in kernel_devices(kind))


def silence_xla() -> None:
    """Lets XLA say that it compiles, once per process and whatever the log level, where nobody reads it.

    The lines are written by C++ to the file of the standard error, so that file is closed meanwhile. Only
    after the devices are chosen: compiling initializes them.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        _register_xla_kernels()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _register_xla_kernels() -> None:
    """TensorFlow registers them when it first compiles something."""
    tf.function(lambda: tf.constant(0) + 1, jit_compile=True)()
