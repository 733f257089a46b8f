"""What a SavedModel holds: parameters, their names, operations, signatures, size on disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from psad_tf.errors import InputError

# Parts of a variable's path that only the teacher has.
_TEACHER_WORDS = ("teacher", "decoder", "generator", "slot_queries")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Facts about a SavedModel.

    Attributes:
        parameters_exported: Number of weights.
        contains_teacher: Whether any variable is the teacher's.
        variables: Shape by variable name, as in the checkpoint inside.
        ops: Names of all operations in the graph and its functions, sorted.
        signatures: Names of the signatures, sorted.
        bytes: Size of all files.
    """

    parameters_exported: int
    contains_teacher: bool
    variables: dict[str, tuple[int, ...]]
    ops: tuple[str, ...]
    signatures: tuple[str, ...]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready facts, variables left out."""
        data = dataclasses.asdict(self)
        del data["variables"]
        return data


def summarize(path: str | os.PathLike[str]) -> Summary:
    """Reads the facts from a SavedModel's files, without loading it.

    Args:
        path: A version's folder, `<base>/<model>/<version>`.

    Raises:
        InputError: The folder holds no whole SavedModel.
    """
    folder = os.fspath(path)
    graph_file = os.path.join(folder, "saved_model.pb")
    if not os.path.isfile(graph_file):
        raise InputError(f"{folder}: is not a SavedModel (it has no saved_model.pb)")
    model = saved_model_pb2.SavedModel()
    try:
        with open(graph_file, "rb") as file:
            model.ParseFromString(file.read())
        variables = _checkpoint_variables(os.path.join(folder, "variables", "variables"))
    except (tf.errors.OpError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{folder}: is not a whole SavedModel ({reason})") from None
    graph = model.meta_graphs[0]
    ops = {node.op for node in graph.graph_def.node}
    for function in graph.graph_def.library.function:
        ops |= {node.op for node in function.node_def}
    names = [*variables, *(_node_names(graph.object_graph_def))]
    return Summary(
        parameters_exported=sum(int(np.prod(shape)) for shape in variables.values()),
        contains_teacher=any(word in name.lower() for name in names for word in _TEACHER_WORDS),
        variables=variables,
        ops=tuple(sorted(ops - {function.signature.name for function in graph.graph_def.library.function})),
        signatures=tuple(sorted(name for name in graph.signature_def if not name.startswith("__"))),
        bytes=folder_bytes(folder),
    )


def folder_bytes(folder: str) -> int:
    """Size of all files under a folder."""
    return sum(
        os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(folder) for name in names
    )


def _checkpoint_variables(prefix: str) -> dict[str, tuple[int, ...]]:
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    return {
        name.removesuffix(suffix).replace(".S", "/"): tuple(shape)
        for name, shape in tf.train.list_variables(prefix)
        if name.endswith(suffix)
    }


def _node_names(object_graph: Any) -> Iterable[str]:
    for node in object_graph.nodes:
        if node.HasField("variable"):
            yield node.variable.name
