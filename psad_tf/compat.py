"""Every private interface of TensorFlow and Keras that training stands on, one function each.

`tests/psad_tf/test_compat.py` fails when a newer release takes one away or changes it. The server's own is in
`psad_tf.serving.server.compat`, the Beam job's in `psad_tf.beam.compat`.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.framework import kernels  # the registry of kernels has no public name


def kernel_devices(operation: str) -> frozenset[str]:
    """The kinds of devices that have a kernel of an operation, `CPU` or `XLA_GPU_JIT` for instance."""
    return frozenset(each.device_type for each in kernels.get_registered_kernels_for_op(operation).kernel)


def adam_moments(
    optimizer: tf.keras.optimizers.Adam, variable: tf.Variable
) -> tuple[tf.Variable, tf.Variable]:
    """The running means of a variable's gradient and of its square, which a built optimizer keeps."""
    index = optimizer._index_dict[optimizer._var_key(variable)]
    return optimizer._momentums[index], optimizer._velocities[index]
