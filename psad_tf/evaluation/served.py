"""Real lists over gRPC against the same lists in process: the served answers must be the model's."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from psad_tf.data.list_folder import read_serialized
from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.export.parity import largest_difference, largest_score
from psad_tf.features import REQUEST_ID
from psad_tf.serving.client import CallPolicy, ModelChoice, RerankClient
from psad_tf.serving.server import EmbeddedServer, single_model_config
from psad_tf.training.run_folder import load_reranker

_PATIENT = CallPolicy(timeout=30.0, fallback=False)


@dataclasses.dataclass(frozen=True)
class ServedComparison:
    """What `compare_over_grpc` found.

    Attributes:
        requests: Lists sent, one a request.
        max_abs_diff: Largest difference of a score or a probability from the in-process model's.
        max_abs_score: Largest absolute score of a candidate in process, at least 1: rounding grows with it.
        same_order: Lists whose ranking puts the in-process scores in descending order.
        p50_ms: Median latency as the client saw it.
        p99_ms: 99th percentile of the same.
        rankings: The served answers: item ids, best first, by request id.
    """

    requests: int
    max_abs_diff: float
    max_abs_score: float
    same_order: int
    p50_ms: float
    p99_ms: float
    rankings: dict[str, list[str]]


def compare_over_grpc(
    run_dir: str | os.PathLike[str],
    model_dir: str | os.PathLike[str],
    lists_dir: str | os.PathLike[str],
    split: str = "test",
    limit: int | None = None,
) -> ServedComparison:
    """Serves an exported version on a free loopback port, sends lists of a split, compares the answers.

    Args:
        run_dir: The run that was exported.
        model_dir: The exported version, `<base>/<model>/<version>`.
        lists_dir: Folder of lists.
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

    base_path, version = os.path.split(os.path.abspath(os.fspath(model_dir)))
    if not version.isdecimal():
        raise InputError(f"{os.fspath(model_dir)}: is not a version's folder, <base>/<model>/<version>")
    name = os.path.basename(base_path)
    config = single_model_config(name, base_path)
    config.model_config_list.config[0].model_version_policy.specific.versions.append(int(version))
    max_abs_score, same_order = 1.0, 0
    differences: list[float] = []
    latencies: list[float] = []
    rankings: dict[str, list[str]] = {}
    with (
        EmbeddedServer(config) as server,
        RerankClient(server.address, model=ModelChoice(name), policy=_PATIENT) as client,
    ):
        client.connect()
        client.predict_examples(lists[:1])  # opens the connection's stream
        for serialized in lists:
            start = time.perf_counter()
            outputs = client.predict_examples([serialized]).outputs
            latencies.append(1e3 * (time.perf_counter() - start))
            expected = {key: value.numpy()[0] for key, value in in_process(tf.constant([serialized])).items()}
            served = {key: np.array(outputs[key].float_val, np.float32) for key in expected}
            for key, values in expected.items():
                if served[key].shape != values.shape:
                    raise InputError(
                        f"{os.fspath(model_dir)}: {key} has {served[key].size} values for {values.size}"
                    )
            differences.append(largest_difference(served, expected))
            max_abs_score = max(max_abs_score, largest_score(expected["scores"]))
            scores, ranking = expected["scores"], np.array(outputs["ranking"].int_val, int)
            same_order += int(np.array_equal(scores[ranking], -np.sort(-scores)[: len(ranking)]))
            item_ids = [each.decode() for each in outputs["item_ids"].string_val if each]
            rankings[_request_id(serialized)] = item_ids
    return ServedComparison(
        len(lists),
        float(np.max(differences)),
        max_abs_score,
        same_order,
        float(np.percentile(latencies, 50)),
        float(np.percentile(latencies, 99)),
        rankings,
    )


def _request_id(serialized: bytes) -> str:
    context = input_pb2.ExampleListWithContext.FromString(serialized).context.features.feature
    values = context[REQUEST_ID].bytes_list.value
    return values[0].decode() if values else ""
