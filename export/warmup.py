"""Warm-up records: requests that TensorFlow Serving replays before a version takes traffic."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import input_pb2, predict_pb2, prediction_log_pb2

from psad_tf.data.parsing import parse_lists
from psad_tf.errors import InputError
from psad_tf.export.signatures import raw_specs
from psad_tf.features import INITIAL_RANK, FeatureDeclaration
from psad_tf.serving.contract import (
    BLOCKED,
    EXAMPLES,
    MAX_WARMUP_RECORDS,
    RERANK_EXAMPLES,
    RERANK_MASKED,
    SERVING_DEFAULT,
    SIGNATURES,
    WARMUP_FILE,
)

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


def resized_lists(lists: Sequence[bytes], candidates: int, count: int) -> list[bytes]:
    """Real lists brought to exactly `candidates` candidates: cut, or filled with those of other lists.

    Args:
        lists: Serialized ExampleListWithContext protos.
        candidates: Candidates of each list made.
        count: Lists to make; more than `lists` repeats them.

    Raises:
        InputError: All lists together have fewer candidates.
    """
    source = [input_pb2.ExampleListWithContext.FromString(each) for each in lists]
    pool = [example for record in source for example in record.examples]
    if len(pool) < candidates:
        raise InputError(f"{len(pool)} candidates in all lists are too few for a list of {candidates}")
    made = []
    for index in range(count):
        record = input_pb2.ExampleListWithContext()
        record.CopyFrom(source[index % len(source)])
        start = index * 997
        while len(record.examples) < candidates:
            record.examples.add().CopyFrom(pool[start % len(pool)])
            start += 1
        del record.examples[candidates:]
        for rank, example in enumerate(record.examples):
            example.features.feature[INITIAL_RANK].int64_list.value[:] = [rank]
        made.append(record.SerializeToString())
    return made


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
    candidates: Sequence[int] = (),
) -> Iterator[predict_pb2.PredictRequest]:
    """Requests of real lists for each signature, several batch sizes and numbers of candidates.

    Args:
        lists: Serialized ExampleListWithContext protos; at least one.
        declaration: The features.
        model_name: Under which the model is served.
        batch_sizes: Lists a request; sizes beyond `lists` repeat them.
        candidates: Numbers of candidates that traffic will have; none takes the lists as they are.
    """
    max_batch_size = max(batch_sizes)
    sized: list[Sequence[bytes]] = [resized_lists(lists, n, max_batch_size) for n in candidates]
    for of_size in sized or [lists]:
        for size in batch_sizes:
            batch = [of_size[index % len(of_size)] for index in range(size)]
            raw = raw_tensors(batch, declaration)
            count = raw["initial_rank"].shape
            yield predict_request(model_name, RERANK_EXAMPLES, {EXAMPLES: np.array(batch, dtype=object)})
            yield predict_request(model_name, SERVING_DEFAULT, raw)
            yield predict_request(model_name, RERANK_MASKED, {**raw, BLOCKED: np.zeros(count, bool)})


def write_warmup(
    version_dir: str,
    lists: Sequence[bytes],
    declaration: FeatureDeclaration,
    model_name: str,
    candidates: Sequence[int] = (),
) -> int:
    """Writes `assets.extra/tf_serving_warmup_requests` into a version's folder.

    Args:
        version_dir: The version's folder.
        lists: As for `warmup_requests`.
        declaration: The features.
        model_name: Under which the model is served.
        candidates: As for `warmup_requests`.

    Returns:
        The number of records.

    Raises:
        InputError: There are more records than TensorFlow Serving replays.
    """
    requests = len(BATCH_SIZES) * len(SIGNATURES) * max(len(candidates), 1)
    if requests * _REPEATS > MAX_WARMUP_RECORDS:
        max_numbers = MAX_WARMUP_RECORDS // (len(BATCH_SIZES) * len(SIGNATURES) * _REPEATS)
        raise InputError(f"warm-up: at most {max_numbers} numbers of candidates, got {len(candidates)}")
    path = os.path.join(version_dir, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for request in warmup_requests(lists, declaration, model_name, candidates=candidates):
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            for _ in range(_REPEATS):
                writer.write(log.SerializeToString())
    return requests * _REPEATS
