from __future__ import annotations

import contextlib
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from psad_tf.errors import InputError
from psad_tf.serving.client.conversation import ModelChoice, examples_request
from psad_tf.serving.server import Batching, EmbeddedServer, ServerSettings
from psad_tf.serving.server.loader import LoadedVersion
from psad_tf.serving.server.service import ServingService
from psad_tf.serving.server.status import ServingError
from tests.psad_tf.serving.swapping import add_version
from tests.psad_tf.serving.tiny_models import lists_examples, scale_request

SMALL = ServerSettings(grpc_max_threads=1, max_queued_requests=1, file_system_poll_wait_seconds=0)


class HoldingService(ServingService):
    """Lets a request wait inside the server until the test says so."""

    def __init__(self, manager: Any, metrics: Any) -> None:
        super().__init__(manager, metrics)
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self.worked = 0

    def predict(self, request: Any, check_wanted: Any = lambda: None) -> Any:
        self.entered.release()
        assert self.release.wait(60)
        self.worked += 1
        return super().predict(request, check_wanted)


@contextlib.contextmanager
def holding(models: pathlib.Path) -> Iterator[tuple[EmbeddedServer, HoldingService, Any]]:
    server = EmbeddedServer.of_model("scale", models, SMALL)
    server.service = service = HoldingService(server.manager, server.metrics)
    with server, grpc.insecure_channel(server.address) as channel:
        try:
            yield server, service, prediction_service_pb2_grpc.PredictionServiceStub(channel)
        finally:
            service.release.set()


def test_the_queue_is_bounded_and_the_rest_is_resource_exhausted(models: pathlib.Path) -> None:
    with holding(models) as (_, service, stub):
        first = stub.Predict.future(scale_request(), timeout=60)
        assert service.entered.acquire(timeout=30)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        others = [stub.Predict.future(scale_request(), timeout=60) for _ in range(4)]
        for each in others:
            each.add_done_callback(done.put)
        refused = [done.get(timeout=30) for _ in range(3)]  # one of the four waits in the queue
        assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        service.release.set()
        (queued,) = set(others) - set(refused)
        assert first.result().model_spec.version.value == queued.result().model_spec.version.value == 2


def test_a_request_whose_deadline_passes_in_the_queue_is_not_worked_on(models: pathlib.Path) -> None:
    with holding(models) as (_, service, stub):
        first = stub.Predict.future(scale_request(), timeout=60)
        assert service.entered.acquire(timeout=30)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(scale_request(), timeout=0.2)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        service.release.set()
        first.result()
        stub.Predict(scale_request(), timeout=60)
        assert service.worked == 2


def test_stopping_answers_the_running_requests_and_refuses_new_ones(models: pathlib.Path) -> None:
    with holding(models) as (server, service, stub):
        with grpc.insecure_channel(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            running = stub.Predict.future(scale_request(), timeout=60)
            assert service.entered.acquire(timeout=30)
            stopping = threading.Thread(target=server.stop, args=(30.0,))
            stopping.start()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            service.release.set()
            assert running.result().model_spec.version.value == 2
            stopping.join()
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(scale_request(), timeout=5)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("field", ["port", "metrics_port"])
def test_a_taken_port_is_one_clear_line_before_anything_is_loaded(models: pathlib.Path, field: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EmbeddedServer.of_model("scale", models, ServerSettings(**{field: port}))
        server.manager.configure = pytest.fail  # type: ignore[method-assign]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: cannot be listened on"):
            server.start()


@contextlib.contextmanager
def loading(server: EmbeddedServer) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Loads wait: gives what says that one has begun and what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()
    load = server.manager._load

    def slowly(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return load(*arguments)

    server.manager._load = slowly  # type: ignore[method-assign]
    try:
        yield begun, go_on
    finally:
        go_on.set()


def health(server: EmbeddedServer) -> str:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(
            stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status
        )


def test_until_its_models_are_loaded_a_server_says_so(models: pathlib.Path) -> None:
    server = EmbeddedServer.of_model("scale", models, SMALL)
    with loading(server) as (begun, go_on):
        starting = threading.Thread(target=server.start)
        starting.start()
        assert begun.wait(30) and health(server) == "NOT_SERVING"
        with grpc.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
                    scale_request(), timeout=30
                )
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE and "being loaded" in raised.value.details()
        go_on.set()
        starting.join()
        assert health(server) == "SERVING"
    server.stop(0)


def test_health_ends_at_once_when_a_server_is_stopped_during_a_load(
    base: pathlib.Path, models: pathlib.Path
) -> None:
    server = EmbeddedServer.of_model(
        "scale", base, ServerSettings(file_system_poll_wait_seconds=0.02)
    ).start()
    with loading(server) as (begun, go_on), grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        add_version(base, models, 2)
        assert begun.wait(30)
        stopping = threading.Thread(target=server.stop, args=(0.0,))
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not go_on.is_set()  # the load goes on all the while
        go_on.set()
        stopping.join()
    assert server.manager.models == ()


def test_a_server_can_be_stopped_while_it_starts(models: pathlib.Path) -> None:
    server = EmbeddedServer.of_model("scale", models, SMALL)
    with loading(server) as (begun, go_on):
        starting = threading.Thread(target=server.start)
        starting.start()
        assert begun.wait(30)
        server.stop(0)
        go_on.set()
        starting.join()
    assert server.manager.models == ()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([b""] * 900 + [b"\n\x00" * 40], "901 lists, each padded to 40 candidates or past interactions"),
        ([b""] * 11_000, "11000 lists, each padded to 3 candidates or past interactions"),
    ],
    ids=["one list of empty candidates", "empty histories"],
)
def test_few_bytes_that_would_be_padded_to_much_are_refused_before_any_work(
    lists_model: pathlib.Path, lists: list[bytes], message: str
) -> None:
    signature = LoadedVersion("lists", 1, str(lists_model / "1")).signature("rerank_examples")
    signature._alone = pytest.fail  # type: ignore[assignment]
    with pytest.raises(ServingError, match=message):
        signature.run(examples_request(ModelChoice("lists"), lists).inputs)


def test_one_string_does_not_stand_for_many_lists(lists_model: pathlib.Path) -> None:
    """A TensorProto repeats its last value up to its shape."""
    request = lists_examples(3)
    request.inputs["examples"].tensor_shape.dim[0].size = 2**20
    loaded = LoadedVersion("lists", 1, str(lists_model / "1"))
    with pytest.raises(ServingError, match="send fewer lists"):
        loaded.signature("rerank_examples").run(request.inputs)


def test_a_late_call_is_not_worked_on_a_second_time(lists_model: pathlib.Path) -> None:
    """A bad list fails its batch; the others are run alone only if somebody still waits for them."""
    batching = Batching(max_batch_size=4, batch_timeout_micros=0, num_batch_threads=1)
    loaded = LoadedVersion("lists", 1, str(lists_model / "1"), batching=batching)
    signature = loaded.signature("rerank_examples")
    signature._alone = pytest.fail  # type: ignore[assignment]
    request = lists_examples(3)
    request.inputs["examples"].string_val[0] = b"\xff"
    checks: list[int] = []

    def check_wanted() -> None:
        checks.append(1)
        if len(checks) > 1:
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "late")

    with pytest.raises(ServingError, match="late"):
        signature.run(request.inputs, check_wanted=check_wanted)


@pytest.mark.slow
def test_the_command_serves_until_sigterm_and_ends_with_0(models: pathlib.Path) -> None:
    arguments = ["--model_base_path", str(models), "--model_name", "scale", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "psad_tf.cli", "serve", *arguments, "--enable_batching=false"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "serving scale: gRPC on 127.0.0.1:" in line
    with grpc.insecure_channel(line.split()[-1]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(scale_request(), timeout=30).model_spec.version.value == 2
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "ended" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the models"),
        (["--model_base_path", "/nowhere"], "no versions found"),
        (["--model_config_file", "/nowhere/models.config"], "no such file"),
        (["--model_base_path", "/x", "--batching_parameters_file", "b"], "without --enable_batching"),
        (["--model_base_path", "/x", "--metrics_port", "8500"], "must differ from --port"),
        (["--model_base_path", "/x", "--port", "70000"], "is not a port"),
        (["--model_base_path", "/x", "--enable_batching", "perhaps"], "neither true nor false"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from psad_tf.cli.main import main

    try:
        code = main(["serve", *arguments])
    except SystemExit as ended:  # argparse's own way out
        code = int(str(ended.code))
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
