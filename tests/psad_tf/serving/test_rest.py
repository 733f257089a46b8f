from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def connection(server: Any) -> Iterator[http.client.HTTPConnection]:
    opened = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    yield opened
    opened.close()


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = body if isinstance(body, bytes | None) else json.dumps(body)
    connection.request(method, path, data)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


PREDICT = "/v1/models/scale:predict"


def test_the_row_format_answers_one_object_a_row(connection: http.client.HTTPConnection) -> None:
    body = {"instances": [{"x": [1.5, 0.1], "tag": "a"}, {"x": [2, 3], "tag": {"b64": "/w=="}}]}
    assert ask(connection, "POST", PREDICT, body) == (
        200,
        {"predictions": [{"echo": "a", "y": [3.0, 0.2]}, {"echo": {"b64": "/w=="}, "y": [4.0, 6.0]}]},
    )


def test_the_columnar_format_answers_columns(connection: http.client.HTTPConnection) -> None:
    body = {"inputs": {"x": [[1.0]], "tag": ["a"]}}
    assert ask(connection, "POST", PREDICT, body) == (200, {"outputs": {"echo": ["a"], "y": [[2.0]]}})


def test_a_single_input_may_be_plain(connection: http.client.HTTPConnection) -> None:
    for body in ({"instances": ["1", "2"]}, {"inputs": ["1", "2"]}):
        status, answer = ask(connection, "POST", PREDICT, body | {"signature_name": "lists"})
        assert (status, next(iter(answer.values()))) == (200, [2.0, 4.0])


@pytest.mark.parametrize("choice", ["/versions/1", "/labels/stable"])
def test_a_version_is_chosen_in_the_path(connection: http.client.HTTPConnection, choice: str) -> None:
    body = {"inputs": {"x": [[1.0]], "tag": ["a"]}}
    status, answer = ask(connection, "POST", f"/v1/models/scale{choice}:predict", body)
    assert (status, answer["outputs"]["y"]) == (200, [[1.0]])


GOOD = {"x": [[1.0]], "tag": ["a"]}
WRONG: list[tuple[str, str, Any, int, str]] = [
    (
        "POST",
        "/v1/models/nope:predict",
        {"inputs": GOOD},
        404,
        "Servable not found for request: Latest(nope)",
    ),
    ("POST", "/v1/models/scale/versions/9:predict", {"inputs": GOOD}, 404, "Specific(scale, 9)"),
    (
        "POST",
        "/v1/models/scale/labels/x:predict",
        {"inputs": GOOD},
        400,
        "Unrecognized servable version label",
    ),
    ("POST", f"/v1/models/scale/versions/{'9' * 19}:predict", {"inputs": GOOD}, 400, "to numeric"),
    ("POST", PREDICT, b"", 400, "JSON Parse error"),
    ("POST", PREDICT, b"{", 400, "JSON Parse error"),
    ("POST", PREDICT, b"[" * 100_000, 400, "JSON Parse error"),
    ("POST", PREDICT, [1], 400, "Is not object"),
    ("POST", PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
    ("POST", PREDICT, {"inputs": GOOD, "instances": []}, 400, "only one of"),
    ("POST", PREDICT, {"instances": []}, 400, "No values in 'instances'"),
    ("POST", PREDICT, {"instances": 3}, 400, "to be an list/array"),
    ("POST", PREDICT, {"instances": [1]}, 400, "expecting list of objects"),
    ("POST", PREDICT, {"instances": [{"x": [1]}]}, 400, "keys must be equal to: tag,x"),
    (
        "POST",
        PREDICT,
        {"instances": [{"x": [1], "tag": "a"}, 1]},
        400,
        "Expecting object but got list at item 1",
    ),
    ("POST", PREDICT, {"inputs": [1]}, 400, "inputs is a plain value/list"),
    ("POST", PREDICT, {"inputs": {"x": [[1.0]]}}, 400, "Missing named input: tag"),
    ("POST", PREDICT, {"inputs": GOOD | {"x": [["a"]]}}, 400, "is not of expected type: float32"),
    ("POST", PREDICT, {"inputs": GOOD | {"x": [[True]]}}, 400, "is not of expected type: float32"),
    ("POST", PREDICT, {"inputs": GOOD | {"x": [[1e300]]}}, 400, "without loss of precision"),
    ("POST", PREDICT, {"inputs": GOOD | {"x": [[1.0], [1.0, 2.0]]}}, 400, "unexpected size"),
    ("POST", PREDICT, {"inputs": GOOD | {"x": [[1.0], 2.0]}}, 400, "incorrect level"),
    ("POST", PREDICT, {"inputs": GOOD | {"tag": [1]}}, 400, "is not of expected type: string"),
    ("POST", PREDICT, {"inputs": GOOD | {"tag": [{"b64": "?"}]}}, 400, "Unable to base64 decode"),
    ("POST", PREDICT, {"inputs": GOOD | {"x": [1.0]}}, 400, "has shape [1]"),
    ("POST", PREDICT, {"inputs": GOOD, "signature_name": 3}, 400, "must be a string value"),
    ("POST", PREDICT, {"inputs": GOOD, "signature_name": "no"}, 400, "not found"),
    ("POST", "/v1/models/scale:classify", {}, 400, "Malformed request: POST /v1/models/scale:classify"),
    ("GET", "/v1/models/nope", None, 404, "Could not find any versions of model nope"),
    ("GET", "/v1/models/../../etc/passwd", None, 400, "Malformed request"),
    ("GET", "/", None, 400, "Malformed request"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "message"), WRONG)
def test_a_wrong_request_has_a_code_and_an_error_object(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, status: int, message: str
) -> None:
    found, answer = ask(connection, method, path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"] and len(answer["error"]) < 600


def test_a_body_above_the_limit_is_refused_unread(server: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    connection.putrequest("POST", PREDICT)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_connection_serves_many_requests(connection: http.client.HTTPConnection) -> None:
    for _ in range(3):
        assert ask(connection, "GET", "/v1/models/scale")[0] == 200
        first = connection.sock
        assert first is not None


def test_status_and_metadata(connection: http.client.HTTPConnection) -> None:
    _, answer = ask(connection, "GET", "/v1/models/scale/versions/1")
    assert answer == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    _, answer = ask(connection, "GET", "/v1/models/scale/metadata")
    assert answer["model_spec"]["version"] == "2"
    assert set(answer["metadata"]["signature_def"]["signature_def"]) == {"serving_default", "lists"}


def test_the_metrics_page_counts_requests_under_tensorflow_servings_names(server: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    ask(connection, "POST", PREDICT, {"inputs": GOOD})
    ask(connection, "POST", "/v1/models/nope:predict", {"inputs": GOOD})
    connection.request("GET", "/monitoring/prometheus/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert ':tensorflow:serving:request_count{model_name="scale",status="OK"}' in page
    assert ':tensorflow:serving:request_count{model_name="unknown",status="NOT_FOUND"}' in page
    labels = {"API": "predict", "entrypoint": "REST", "model_name": "scale"}
    assert samples[":psad:serving:in_flight", ()] == 0
    count = samples[":tensorflow:serving:request_latency_count", tuple(sorted(labels.items()))]
    bucket = tuple(sorted((labels | {"le": "+Inf"}).items()))
    assert count == samples[":tensorflow:serving:request_latency_bucket", bucket] >= 1
