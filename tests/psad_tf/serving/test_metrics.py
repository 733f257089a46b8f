from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.psad_tf.serving.tiny_models import scale_request


def page(server: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_under_tensorflow_servings_names(server: Any, stub: Any) -> None:
    stub.Predict(scale_request())
    unknown = stub.Predict.future(scale_request(model="nope"))
    assert unknown.exception() is not None
    samples = page(server)

    def value(name: str, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    assert value(":tensorflow:serving:request_count_total", model_name="scale", status="OK") >= 1
    assert value(":tensorflow:serving:request_count_total", model_name="unknown", status="NOT_FOUND") >= 1
    labels = {"API": "predict", "entrypoint": "GRPC", "model_name": "scale"}
    count = value(":tensorflow:serving:request_latency_count", **labels)
    assert count == value(":tensorflow:serving:request_latency_bucket", le="+Inf", **labels) >= 1
    assert value(":psad:serving:in_flight") == 0


@pytest.mark.slow
def test_idle_connections_lock_nobody_out(server: Any) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.metrics_port)) for _ in range(40)]
    assert page(server)
    for each in idle:
        each.close()


def test_the_page_is_on_loopback(server: Any) -> None:
    assert server.settings.metrics_host == "127.0.0.1"
