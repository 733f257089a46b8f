"""Time of the serving graph alone, on one core: python -m benchmarks.serving_graph MODEL_DIR [MODEL_DIR ...]

Runs a signature of several exported versions in turns, in a new order each round, each version in a session
of its own as the embedded server and TensorFlow Serving run it, without gRPC. A turn is --calls calls, since
a server runs one model again and again; its time is their mean. Times are processor time of the process,
which is bound to one core: waiting for other processes does not count, though sharing the core's caches with
them does. So read the ratios; the minimum is what a quiet machine gives. The first version is what the others
are compared with. To compare with an older release, export the same run with it. TF_ENABLE_ONEDNN_OPTS
counts: serving_config/ sets it to 0.

Calls run in the calling thread, as in the embedded server and, by a flag of serving_config/, in TensorFlow
Serving. --thread_pool measures each version a second time by TensorFlow's pool of threads, which is what
TensorFlow Serving does without that flag.

`serving_default` also pays for Python's handing over of string tensors, which neither server does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import markdown_table, one_line_errors
from psad_tf.errors import InputError
from psad_tf.files import write_json

_LISTS = 16
_THREADS = ("caller", "pool")


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("models", nargs="+", help="exported versions, <base>/<model>/<version>; the first is compared with")
    add("--lists_dir", default=os.path.join("runs", "demo", "lists"), help="lists of the test split are sent")
    add("--candidates", nargs="+", type=int, default=[50], help="N")
    add("--signatures", nargs="+", default=["rerank_examples", "serving_default"], help="which signatures")
    add("--rounds", type=int, default=100, help="turns of each version")
    add("--calls", type=int, default=20, help="calls in a turn")
    add("--thread_pool", action="store_true", help="measure each version by TensorFlow's thread pool as well")
    add("--output", default=None, help="JSON file of the results")
    options = parser.parse_args(arguments)
    with one_line_errors():
        for path in options.models:
            if not os.path.isfile(os.path.join(path, "saved_model.pb")):
                raise InputError(f"{path}: is not a SavedModel (it has no saved_model.pb)")
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow counts the cores
        found = measure(
            options.models,
            options.lists_dir,
            options.candidates,
            options.signatures,
            options.rounds,
            options.calls,
            options.thread_pool,
        )
        print(table(found))
        if options.output is not None:
            write_json(options.output, found)
            print(f"written: {options.output}")


def measure(
    models: Sequence[str],
    lists_dir: str,
    candidates: Sequence[int],
    signatures: Sequence[str],
    rounds: int,
    calls_a_turn: int = 20,
    thread_pool: bool = False,
) -> list[dict[str, Any]]:
    """A row per signature, number of candidates, version and kind of thread: microseconds, ratios, nodes."""
    import numpy as np

    from benchmarks.serving_setup import lists_of
    from benchmarks.timing import interleaved
    from psad_tf.data.list_folder import load_encoder
    from psad_tf.serving.server.saved_model import load_graph

    declaration = load_encoder(lists_dir).declaration
    graphs = {path: load_graph(path) for path in models}
    ways = list(itertools.product(graphs, _THREADS[: 1 + thread_pool]))
    rows = []
    for count in candidates:
        lists = lists_of(lists_dir, count, _LISTS)
        for name in signatures:
            calls = {
                (path, threads): _turn(
                    _calls(graphs[path], name, lists, declaration, threads == _THREADS[0]), calls_a_turn
                )
                for path, threads in ways
            }
            seconds = interleaved(calls, rounds, clock=time.process_time)
            micros = {
                way: {
                    "median": 1e6 * float(np.median(each)) / calls_a_turn,
                    "minimum": 1e6 * float(np.min(each)) / calls_a_turn,
                }
                for way, each in seconds.items()
            }
            for path, threads in ways:
                each = micros[path, threads]
                rows.append(
                    {
                        "signature": name,
                        "candidates": count,
                        "model": path,
                        "threads": threads,
                        **{f"{kind}_us": round(value, 1) for kind, value in each.items()},
                        **{
                            f"{kind}_ratio": round(value / micros[ways[0]][kind], 3)
                            for kind, value in each.items()
                        },
                        "nodes": _nodes(graphs[path], name),
                    }
                )
    return rows


def _turn(call: Callable[[], object], calls: int) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(calls):
            call()

    return turn


def _calls(
    graph: Any, name: str, lists: Sequence[bytes], declaration: Any, in_callers_thread: bool
) -> Callable[[], object]:
    """Runs a signature on each list in turn, all its outputs fetched."""
    import numpy as np

    from psad_tf.export.warmup import raw_tensors
    from psad_tf.serving.contract import EXAMPLES
    from psad_tf.serving.server.compat import session_callable

    definition = graph.definitions[name]
    tensors = graph.session.graph.get_tensor_by_name
    aliases = sorted(definition.inputs)
    run = session_callable(
        graph.session,
        [tensors(definition.inputs[alias].name) for alias in aliases],
        [tensors(info.name) for info in definition.outputs.values()],
        in_callers_thread,
    )
    feeds = [
        [np.array([each], object)]
        if aliases == [EXAMPLES]
        else [raw_tensors([each], declaration)[alias] for alias in aliases]
        for each in lists
    ]
    turn = itertools.cycle(feeds)
    return lambda: run(*next(turn))


def _nodes(graph: Any, name: str) -> int:
    """Nodes of the signature's function and of those that it calls."""
    definition = graph.definitions[name]
    call = graph.session.graph.get_tensor_by_name(next(iter(definition.outputs.values())).name).op
    library = {each.signature.name: each for each in graph.session.graph.as_graph_def().library.function}
    count, left = 0, [call.get_attr("f").name]
    while left:
        for node in library[left.pop()].node_def:
            count += 1
            if "f" in node.attr and node.attr["f"].func.name in library:
                left.append(node.attr["f"].func.name)
    return count


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    header = ["signature", "N", "version", "thread", "median us", "ratio", "minimum us", "ratio", "nodes"]
    cells = [
        [
            row["signature"],
            str(row["candidates"]),
            row["model"],
            row["threads"],
            f"{row['median_us']:.0f}",
            f"{row['median_ratio']:.2f}",
            f"{row['minimum_us']:.0f}",
            f"{row['minimum_ratio']:.2f}",
            str(row["nodes"]),
        ]
        for row in rows
    ]
    return markdown_table(header, cells)


if __name__ == "__main__":
    main()
