"""A SavedModel's graph in a session of its own, put together as TensorFlow Serving does in C++.

`tf.saved_model.load` would rebuild the model's Python objects, which takes seconds of Python's lock: requests
that are being answered would feel it. Here Python reads the protos and names the nodes; restoring, building
and optimizing happen in TensorFlow, without the lock.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import saved_model_pb2

from psad_tf.serving.contract import GRAPH_FILE

_INIT_OP = "__saved_model_init_op"


class GraphError(Exception):
    """A folder without a SavedModel; the message is one line."""


class LoadedGraph(NamedTuple):
    """A restored SavedModel.

    Attributes:
        session: Its session, with variables and tables filled.
        definitions: SignatureDefs by name.
    """

    session: tf.compat.v1.Session
    definitions: Mapping[str, Any]


def load_graph(path: str) -> LoadedGraph:
    """Loads a SavedModel.

    Args:
        path: Its folder.

    Raises:
        GraphError: The folder holds no SavedModel.
        tf.errors.OpError: Its variables or tables cannot be read.
    """
    meta = _meta_graph(path)
    config = tf.compat.v1.ConfigProto()
    # The session's own graph is a few nodes: optimizing it whole would take a second for each signature.
    # The function with the model, which is not inlined, is optimized when it first runs.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    # Threads that wait for the next part of an operation would take the core from the one that has it.
    config.experimental.disable_thread_spinning = True
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        with session.graph.as_default():
            _import(meta.graph_def)
        variables = os.path.join(path, "variables", "variables")
        session.run(meta.saver_def.restore_op_name, {meta.saver_def.filename_tensor_name: variables})
        if _INIT_OP in meta.signature_def:
            assets = {
                each.tensor_info.name: os.path.join(path, "assets", each.filename)
                for each in meta.asset_file_def
            }
            tensor = meta.signature_def[_INIT_OP].outputs[_INIT_OP].name
            session.run(session.graph.get_operation_by_name(tensor.partition(":")[0]), assets)
    except BaseException:
        session.close()
        raise
    definitions = {
        name: definition for name, definition in meta.signature_def.items() if not name.startswith("__")
    }
    return LoadedGraph(session, definitions)


def _meta_graph(path: str) -> Any:
    name = os.path.join(path, GRAPH_FILE)
    try:
        with open(name, "rb") as file:
            model = saved_model_pb2.SavedModel.FromString(file.read())
    except FileNotFoundError:
        raise GraphError(f"has no {GRAPH_FILE}") from None
    except DecodeError:
        raise GraphError(f"{GRAPH_FILE} is damaged") from None
    if not model.meta_graphs:
        raise GraphError(f"{GRAPH_FILE} holds no graph")
    return model.meta_graphs[0]


def _import(graph: graph_pb2.GraphDef) -> None:
    """Adds a graph to the default one, one function at a time: each import holds Python's lock.

    Functions that the graph calls are not inlined into it, so that each is optimized when it first runs;
    those that they call are, since every call costs a copy of its arguments.
    """
    nodes = graph_pb2.GraphDef(node=graph.node, versions=graph.versions)
    called = {node.attr["f"].func.name for node in graph.node if "f" in node.attr}
    for function in graph.library.function:
        part = graph_pb2.GraphDef(versions=graph.versions)
        added = part.library.function.add()
        added.CopyFrom(function)
        if function.signature.name in called:
            added.attr["_noinline"].b = True
        tf.graph_util.import_graph_def(part, name="")
    tf.graph_util.import_graph_def(nodes, name="")
