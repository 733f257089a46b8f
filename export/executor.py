"""How TensorFlow runs a SavedModel's signatures: one operation after the other, in the calling thread."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tensorflow.core.protobuf import saved_model_pb2

from psad_tf.serving.contract import GRAPH_FILE

_EXECUTOR = b"SINGLE_THREADED_EXECUTOR"


def run_in_one_thread(path: str, signatures: Iterable[str]) -> None:
    """Marks the calls of a SavedModel's signatures to be run by TensorFlow's single-threaded executor.

    It takes the operations in a fixed order and counts no readiness, and constants cost it nothing. A large
    operation still uses several threads, and requests run beside each other as before.

    The signatures' functions are kept from being inlined, since the mark lies on the calls.

    Args:
        path: The SavedModel's folder.
        signatures: Their names.
    """
    name = os.path.join(path, GRAPH_FILE)
    with open(name, "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    meta = model.meta_graphs[0]
    outputs = [next(iter(meta.signature_def[each].outputs.values())).name for each in signatures]
    calls = {output.partition(":")[0] for output in outputs}
    functions = {each.signature.name: each for each in meta.graph_def.library.function}
    for node in meta.graph_def.node:
        if node.name in calls:
            node.attr["executor_type"].s = _EXECUTOR
            functions[node.attr["f"].func.name].attr["_noinline"].b = True
    with open(name, "wb") as file:
        file.write(model.SerializeToString())
