"""Warm-up records: requests that TensorFlow Serving replays before a version takes traffic."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export.signatures import BLOCKED, EXAMPLES, RERANK_EXAMPLES, RERANK_MASKED, SERVING_DEFAULT, raw_specs
from psad_tf.features import FeatureDeclaration
from psad_tf.input_pipeline import parse_lists

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_REPEATS = 2  # the first run of a shape builds it, the second runs it as traffic will


def raw_tensors(serialized: Sequence[bytes], declaration: FeatureDeclaration) -> dict[str, np.ndarray]:
    """The inputs of `serving_default` for serialized ExampleListWithContext protos, one list each.

    Args:
        serialized: Lists as they lie in a list folder.
        declaration: The features.

    Returns:
        Arrays by input name, [len(serialized), ...].
    """
    raw = parse_lists(tf.constant(list(serialized), tf.string), declaration)
    return {name: raw[name].numpy() for name in raw_specs(declaration)}


def predict_request(
    model_name: str, signature: str, inputs: dict[str, np.ndarray]
) -> predict_pb2.PredictRequest:
    """A PredictRequest on the newest version of a model."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def warmup_requests(
    lists: Sequence[bytes],
    declaration: FeatureDeclaration,
    model_name: str,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Iterator[predict_pb2.PredictRequest]:
    """Requests of real lists for each signature and several batch sizes.

    Args:
        lists: Serialized ExampleListWithContext protos; at least one.
        declaration: The features.
        model_name: Under which the model is served.
        batch_sizes: Lists a request; sizes beyond `lists` repeat them.
    """
    for size in batch_sizes:
        batch = [lists[index % len(lists)] for index in range(size)]
        raw = raw_tensors(batch, declaration)
        count = raw["initial_rank"].shape
        yield predict_request(model_name, RERANK_EXAMPLES, {EXAMPLES: np.array(batch, dtype=object)})
        yield predict_request(model_name, SERVING_DEFAULT, raw)
        yield predict_request(model_name, RERANK_MASKED, {**raw, BLOCKED: np.zeros(count, bool)})


def write_warmup(
    version_dir: str, lists: Sequence[bytes], declaration: FeatureDeclaration, model_name: str
) -> int:
    """Writes `assets.extra/tf_serving_warmup_requests` into a version's folder.

    Returns:
        The number of records.
    """
    path = os.path.join(version_dir, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(path) as writer:
        for request in warmup_requests(lists, declaration, model_name):
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            for _ in range(_REPEATS):
                writer.write(log.SerializeToString())
                count += 1
    return count
