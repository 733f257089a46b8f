"""Are raw logs ranked as they were evaluated? python -m benchmarks.raw_log_rankings [--demo_dir runs/demo]

Sends the test requests of the demo's raw log by `psad rerank` to a server of the demo's export, and compares
each ranking with that of the trained model on the list that the Beam job made of the same request. Ends with
the number of rankings that are equal, and with exit code 1 if not all are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import one_line_errors
from psad_tf.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--demo_dir", default=os.path.join("runs", "demo"), help="what `psad demo` wrote")
    parser.add_argument("--run_dir", default=None, help="a run (default: the demo's first)")
    options = parser.parse_args(arguments)
    with one_line_errors():
        raw, lists = (os.path.join(options.demo_dir, each) for each in ("raw", "lists"))
        run = options.run_dir or os.path.join(options.demo_dir, "runs", "seed-1")
        for folder in (raw, lists, run):
            if not os.path.isdir(folder):
                raise InputError(f"{folder}: no such folder; 'make demo' makes it")
        expected = evaluated_rankings(run, lists)
        served = served_rankings(run, raw)
        equal = sum(served.get(request) == items for request, items in expected.items())
        print(f"{equal} of {len(expected)} rankings of the raw log are the evaluated ones")
    return 0 if equal == len(expected) else 1


def evaluated_rankings(run_dir: str, lists_dir: str) -> dict[str, list[str]]:
    """Item ids, best first, of every test list by request id, by the trained model in this process."""
    import numpy as np

    from psad_tf.data.list_folder import read_serialized
    from psad_tf.data.parsing import parse_lists
    from psad_tf.features import ITEM_ID, REQUEST_ID
    from psad_tf.training.run_folder import load_reranker

    encoder, reranker, _ = load_reranker(run_dir)
    rankings = {}
    for serialized in read_serialized(lists_dir, "test").batch(64):
        raw = parse_lists(serialized, encoder.declaration)
        scores = reranker(encoder(raw))["scores"].numpy()
        orders = np.argsort(-scores, axis=1, kind="stable")
        for request, items, order in zip(
            raw[REQUEST_ID].numpy(), raw[ITEM_ID].numpy()[..., 0], orders, strict=True
        ):
            rankings[request.decode()] = [items[index].decode() for index in order if items[index]]
    return rankings


def served_rankings(run_dir: str, raw_dir: str) -> dict[str, list[str]]:
    """The same as `psad rerank` gives it for the raw log."""
    from psad_tf.export.saved_model import export_saved_model
    from psad_tf.serving.server import EmbeddedServer

    with tempfile.TemporaryDirectory() as folder:
        exported = export_saved_model(run_dir, folder)
        requests = os.path.join(folder, "requests.jsonl")
        with (
            open(os.path.join(raw_dir, "impressions.jsonl"), encoding="utf-8") as log,
            open(requests, "w", encoding="utf-8") as file,
        ):
            file.writelines(line for line in log if json.loads(line).get("split") == "test")
        with EmbeddedServer.of_model("psad", os.path.dirname(exported)) as server:
            answers = _psad_rerank(server.address, requests, raw_dir)
    _check_by_model(answers)
    return {answer["request_id"]: [item["item_id"] for item in answer["items"]] for answer in answers}


def _psad_rerank(address: str, requests: str, raw_dir: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "psad_tf.cli", "rerank", "--server", address, "--input", requests]
    for table in ("users", "items", "interactions"):
        command += [f"--{table}", os.path.join(raw_dir, f"{table}.jsonl")]
    done = subprocess.run([*command, "--timeout", "30"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"psad rerank failed with exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _check_by_model(answers: Sequence[Mapping[str, Any]]) -> None:
    for answer in answers:
        if answer["source"] != "model":
            raise InputError(f"request {answer['request_id']} fell back: {answer['reason']}")


if __name__ == "__main__":
    sys.exit(main())
