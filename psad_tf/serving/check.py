"""Real lists over gRPC against the same lists in process: the served answers must be the model's."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np
import tensorflow as tf

from psad_tf.errors import InputError
from psad_tf.input_pipeline import parse_lists, read_serialized
from psad_tf.runs import load_reranker
from psad_tf.serving.client import RerankClient
from psad_tf.serving.connection import ModelChoice
from psad_tf.serving.policy import CallPolicy
from psad_tf.serving.server import EmbeddedServer

_PATIENT = CallPolicy(timeout=30.0, fallback=False)


@dataclasses.dataclass(frozen=True)
class ServedCheck:
    """What `check_served` found.

    Attributes:
        requests: Lists sent, one a request.
        max_abs_diff: Largest difference of a score or a probability from the in-process model's.
        same_order: Lists whose ranking equals the in-process order.
        p50_ms: Median latency as the client saw it.
        p99_ms: 99th percentile of the same.
    """

    requests: int
    max_abs_diff: float
    same_order: int
    p50_ms: float
    p99_ms: float


def check_served(
    run_dir: str | os.PathLike[str],
    base_dir: str | os.PathLike[str],
    lists_dir: str | os.PathLike[str],
    *,
    model_name: str = "psad",
    split: str = "test",
    limit: int | None = None,
) -> ServedCheck:
    """Starts the embedded server on a free loopback port, sends lists of a split, compares the answers.

    Args:
        run_dir: The run that was exported.
        base_dir: Where it was exported to; `<base_dir>/<model_name>/<version>`.
        lists_dir: Folder of lists.
        model_name: Name of the model.
        split: Which lists.
        limit: At most so many; None sends all.

    Raises:
        InputError: Something of this cannot be read, or there are no lists.
    """
    records = read_serialized(lists_dir, split)
    lists = list((records if limit is None else records.take(limit)).as_numpy_iterator())
    if not lists:
        raise InputError(f"{os.fspath(lists_dir)}: the split {split!r} has no lists")
    encoder, reranker, _ = load_reranker(run_dir)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def in_process(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return reranker(encoder(parse_lists(serialized, encoder.declaration)))

    difference, same_order, latencies = 0.0, 0, []
    with (
        EmbeddedServer.of_model(model_name, os.path.join(os.fspath(base_dir), model_name)) as server,
        RerankClient(server.address, model=ModelChoice(model_name), policy=_PATIENT) as client,
    ):
        client.connect()
        for serialized in lists:
            start = time.perf_counter()
            outputs = client.predict_examples([serialized]).outputs
            latencies.append(1e3 * (time.perf_counter() - start))
            expected = {
                name: value.numpy()[0] for name, value in in_process(tf.constant([serialized])).items()
            }
            for name, values in expected.items():
                served = np.array(outputs[name].float_val, np.float32)
                difference = max(difference, float(np.max(np.abs(served - values), initial=0.0)))
            ranking = np.array(outputs["ranking"].int_val)
            order = np.argsort(-expected["scores"], kind="stable")[: len(ranking)]
            same_order += int(np.array_equal(expected["scores"][ranking], expected["scores"][order]))
    return ServedCheck(
        len(lists),
        difference,
        same_order,
        float(np.percentile(latencies, 50)),
        float(np.percentile(latencies, 99)),
    )
