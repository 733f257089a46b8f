from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from benchmarks.serving_reliability import damaged, malformed
from tests.psad_tf.serving.tiny_models import parse_request, scale_request

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code(), raised.value.details()


def changed(change: Callable[[Any], object]) -> predict_pb2.PredictRequest:
    request = scale_request()
    change(request)
    return request


def test_the_newest_version_answers_with_typed_fields(stub: Any) -> None:
    response = stub.Predict(scale_request([[1.0, 2.0], [3.0, 4.0]]))
    assert list(response.outputs["y"].float_val) == [2.0, 4.0, 6.0, 8.0]
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [2, 2]
    assert list(response.outputs["echo"].string_val) == [b"t", b"t"]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("scale", 2, "serving_default")


def test_a_version_is_chosen_by_number_or_label(stub: Any) -> None:
    assert list(stub.Predict(scale_request(version=1)).outputs["y"].float_val) == [1.0, 2.0]
    stable = changed(lambda request: setattr(request.model_spec, "version_label", "stable"))
    assert stub.Predict(stable).model_spec.version.value == 1


def test_tensor_content_and_typed_values_are_both_read(stub: Any) -> None:
    request = scale_request()
    request.inputs["x"].ClearField("float_val")
    request.inputs["x"].tensor_content = np.array([5.0, 6.0], np.float32).tobytes()
    assert list(stub.Predict(request).outputs["y"].float_val) == [10.0, 12.0]


def test_output_filter_keeps_what_is_named(stub: Any) -> None:
    response = stub.Predict(changed(lambda request: request.output_filter.append("echo")))
    assert set(response.outputs) == {"echo"}


UNKNOWN = [
    ("model_spec.name", lambda r: setattr(r.model_spec, "name", "nope"), "NOT_FOUND", "Latest(nope)"),
    ("no name", lambda r: r.model_spec.ClearField("name"), "INVALID_ARGUMENT", "no name specified"),
    (
        "version",
        lambda r: setattr(r.model_spec.version, "value", 9),
        "NOT_FOUND",
        "Servable not found for request: Specific(scale, 9)",
    ),
    (
        "label",
        lambda r: setattr(r.model_spec, "version_label", "beta"),
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: beta",
    ),
    (
        "signature",
        lambda r: setattr(r.model_spec, "signature_name", "nope"),
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    ),
    (
        "missing input",
        lambda r: r.inputs.pop("tag"),
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=2 len({x}) != len({tag,x}). Sent extra: {}. Missing but "
        "required: {tag}.",
    ),
    (
        "extra input",
        lambda r: r.inputs["more"].CopyFrom(r.inputs["x"]),
        "INVALID_ARGUMENT",
        "Sent extra: {more}.",
    ),
    (
        "misnamed input",
        lambda r: (r.inputs["tags"].CopyFrom(r.inputs["tag"]), r.inputs.pop("tag")),
        "INVALID_ARGUMENT",
        "input tensor alias not found in signature: tags. Inputs expected to be in the set {tag,x}.",
    ),
    (
        "wrong type",
        lambda r: r.inputs["x"].CopyFrom(tf.make_tensor_proto([[1]], tf.int64)),
        "INVALID_ARGUMENT",
        "to be float32 but int64 is provided",
    ),
    (
        "unknown type",
        lambda r: setattr(r.inputs["x"], "dtype", 99),
        "INVALID_ARGUMENT",
        "an unknown type",
    ),
    (
        "wrong rank",
        lambda r: r.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0])),
        "INVALID_ARGUMENT",
        "input 'x' has shape [1], expected [?,?]",
    ),
    (
        "negative size",
        lambda r: setattr(r.inputs["x"].tensor_shape.dim[0], "size", -3),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    (
        "huge shape of few bytes",
        lambda r: setattr(r.inputs["x"].tensor_shape.dim[1], "size", 2**40),
        "INVALID_ARGUMENT",
        "more than",
    ),
    (
        "content of another length",
        lambda r: (r.inputs["x"].ClearField("float_val"), setattr(r.inputs["x"], "tensor_content", b"abc")),
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    (
        "output filter",
        lambda r: r.output_filter.append("z"),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z Outputs expected to be in the set {echo,y}.",
    ),
    (
        "duplicate output",
        lambda r: r.output_filter.extend(["y", "y"]),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    ),
]


@pytest.mark.parametrize(
    ("change", "code", "message"), [each[1:] for each in UNKNOWN], ids=[e[0] for e in UNKNOWN]
)
def test_a_wrong_request_is_answered_as_tensorflow_serving_answers_it(
    stub: Any, change: Callable[[Any], object], code: str, message: str
) -> None:
    found, details = refused(lambda: stub.Predict(changed(change)))
    assert (found.name, message in details) == (code, True), details


def test_an_error_inside_the_graph_tells_no_path_or_node(stub: Any) -> None:
    code, details = refused(lambda: stub.Predict(parse_request(["1", "x" * 2000])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "could not correctly convert" in details
    assert "{{" not in details and "/" not in details and len(details) < 500


def test_many_serialized_lists_of_which_one_is_huge_are_refused(stub: Any) -> None:
    # 1,000 lists padded to the longest would need far more memory than the request.
    code, details = refused(lambda: stub.Predict(parse_request(["1" * 500_000] + ["1"] * 1000)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "fewer lists" in details


def test_a_message_above_the_limit_is_refused(stub: Any) -> None:
    code, _ = refused(lambda: stub.Predict(parse_request(["1" * 2**21])))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_classify_is_unimplemented(stub: Any) -> None:
    from tensorflow_serving.apis import classification_pb2

    assert (
        refused(lambda: stub.Classify(classification_pb2.ClassificationRequest()))[0].name == "UNIMPLEMENTED"
    )


def test_metadata_holds_the_signatures(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "scale"
    response = stub.GetModelMetadata(request)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(definitions) and response.model_spec.version.value == 2
    assert set(definitions.signature_def) == {"serving_default", "lists"}
    assert set(definitions.signature_def["serving_default"].inputs) == {"x", "tag"}


def test_metadata_of_nothing_or_of_an_unknown_field_is_refused(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    assert refused(lambda: stub.GetModelMetadata(request))[1] == "Missing ModelSpec"
    request.model_spec.name = "scale"
    assert "at least one metadata_field" in refused(lambda: stub.GetModelMetadata(request))[1]
    request.metadata_field.append("weights")
    assert "Metadata field weights is not supported" in refused(lambda: stub.GetModelMetadata(request))[1]


def test_status_lists_versions_newest_first(model_stub: Any) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "scale"
    found = model_stub.GetModelStatus(request).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.State.Value("AVAILABLE")
    assert [(each.version, each.state, each.status.error_code) for each in found] == [
        (2, available, 0),
        (1, available, 0),
    ]
    request.model_spec.version_label = "stable"
    assert [each.version for each in model_stub.GetModelStatus(request).model_version_status] == [1]


def test_status_of_the_unknown_is_not_found(model_stub: Any) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refused(lambda: model_stub.GetModelStatus(request))[1] == "Missing ModelSpec"
    request.model_spec.name = "nope"
    assert refused(lambda: model_stub.GetModelStatus(request)) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model nope",
    )
    request.model_spec.name = "scale"
    request.model_spec.version.value = 7
    assert refused(lambda: model_stub.GetModelStatus(request))[1] == "Could not find version 7 of model scale"


def test_health_says_serving(channel: grpc.Channel) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        status = stub.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services_and_describes_them(channel: grpc.Channel) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= services
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    assert "Predict" in [method.name for service in file.service for method in service.method]


@pytest.mark.slow
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_fuzzed_requests_neither_crash_nor_tell_paths(channel: grpc.Channel, stub: Any, data: Any) -> None:
    raw = channel.unary_unary(PREDICT)
    body = data.draw(st.one_of(st.binary(max_size=200), st.integers(0, 10**6).map(_changed)))
    try:
        raw(body, timeout=20)
    except grpc.RpcError as error:
        assert error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
        details = error.details()
        if error.code() is grpc.StatusCode.INTERNAL:
            assert (
                "deserializing" in details
            )  # gRPC's own answer to what is no proto; ours are not unforeseen
        assert not any(each in details for each in ("Traceback", ".py", os.getcwd(), "site-packages"))
    assert stub.Predict(scale_request()).model_spec.version.value == 2


def _changed(seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return malformed(scale_request(), rng)
    return damaged(scale_request().SerializeToString(), rng)
