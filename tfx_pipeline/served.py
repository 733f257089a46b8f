"""Loads an exported model in the embedded server and sends it its own warm-up requests."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from psad_tf.errors import InputError
from psad_tf.serving.client import CallPolicy, ModelChoice, RerankClient, RerankError
from psad_tf.serving.contract import PROBABILITIES, SCORES, WARMUP_FILE
from psad_tf.serving.server import EmbeddedServer, ServerSettings

_MOST_REQUESTS = 200
_PATIENT = CallPolicy(timeout=60.0, fallback=False)
_OUTPUTS = (SCORES, PROBABILITIES)


@dataclasses.dataclass(frozen=True)
class ServedCheck:
    """What `check_served` found.

    Attributes:
        reason: Why the model cannot be served, "" where it can.
        requests: Requests answered.
        p50_ms: Median latency as the client saw it; 0 without requests.
    """

    reason: str
    requests: int = 0
    p50_ms: float = 0.0


def check_served(model_dir: str, model_name: str, max_latency_ms: float = 0.0) -> ServedCheck:
    """Serves a SavedModel on a free loopback port and sends each of its warm-up requests once.

    Loading replays the warm-up records too, as TensorFlow Serving does, so the latencies are warm ones.

    Args:
        model_dir: Folder of the SavedModel.
        model_name: Name under which it is served.
        max_latency_ms: Bound on the median latency; 0 sets none.
    """
    try:
        requests = _warmup_requests(os.path.join(model_dir, WARMUP_FILE))
    except tf.errors.OpError as error:
        return ServedCheck(f"the warm-up records cannot be read: {error.message.splitlines()[0]}")
    if not requests:
        return ServedCheck("there are no warm-up records to send")
    latencies: list[float] = []
    with tempfile.TemporaryDirectory(prefix="psad-infra-check-") as base:
        os.mkdir(os.path.join(base, model_name))
        os.symlink(os.path.abspath(model_dir), os.path.join(base, model_name, "1"))
        settings = ServerSettings(file_system_poll_wait_seconds=0)
        try:
            with (
                EmbeddedServer.of_model(model_name, os.path.join(base, model_name), settings) as server,
                RerankClient(server.address, model=ModelChoice(model_name), policy=_PATIENT) as client,
            ):
                client.connect()
                for request in requests:
                    request.model_spec.name = model_name
                    start = time.perf_counter()
                    response = client.predict(request)
                    latencies.append(1e3 * (time.perf_counter() - start))
                    for name in _OUTPUTS:
                        values = np.array(response.outputs[name].float_val)
                        if not values.size or not np.isfinite(values).all():
                            return ServedCheck(f"{name} are not all finite numbers", len(latencies))
        except (InputError, RerankError) as error:
            return ServedCheck(str(error), len(latencies))
    median = float(np.median(latencies))
    if 0.0 < max_latency_ms < median:
        return ServedCheck(
            f"the median latency is {median:.1f} ms, allowed are {max_latency_ms:g}", len(latencies), median
        )
    return ServedCheck("", len(latencies), median)


def _warmup_requests(path: str) -> list[predict_pb2.PredictRequest]:
    """The distinct requests of a warm-up file."""
    if not os.path.isfile(path):
        return []
    requests: dict[bytes, predict_pb2.PredictRequest] = {}
    for record in tf.data.TFRecordDataset(path).take(_MOST_REQUESTS).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") == "predict_log":
            requests[record] = log.predict_log.request
    return list(requests.values())
