from __future__ import annotations

import asyncio
import contextlib
import io
import json
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import input_pb2, predict_pb2, prediction_service_pb2_grpc

from psad_tf.cli.main import main
from psad_tf.errors import InputError
from psad_tf.export import served_layers
from psad_tf.export.saved_model import export_saved_model
from psad_tf.serving.client import AsyncRerankClient, CallPolicy, ModelChoice, RerankClient, RerankError
from psad_tf.serving.client.ranking import INITIAL_ORDER, MODEL, ranking_from_outputs
from psad_tf.serving.client.requests import Candidate, RerankRequest
from psad_tf.serving.client.sync import first_answer
from psad_tf.serving.server import EmbeddedServer
from psad_tf.serving.server.settings import ServerSettings
from psad_tf.serving.server.tensors import typed_proto
from tests.export.tiny_run import make_list

PATIENT = CallPolicy(timeout=30.0, fallback=False)
REQUEST = RerankRequest("u1", [Candidate(f"i{i}", float(-i)) for i in range(5)], request_id="r")


class Scripted(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A server that answers Predict as a test tells it to, call by call."""

    def __init__(self, answer: Callable[[int, Any], predict_pb2.PredictResponse]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self.calls = 0

    def Predict(self, request: Any, context: Any) -> predict_pb2.PredictResponse:
        with self._lock:
            self.calls += 1
            number = self.calls
        return self._answer(number, context)


@contextlib.contextmanager
def scripted(answer: Callable[[int, Any], predict_pb2.PredictResponse]) -> Iterator[tuple[str, Scripted]]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    servicer = Scripted(answer)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(0).wait()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(RerankError) as raised:
        call()
    return raised.value.code


def sync_call(address: str, policy: CallPolicy, **options: Any) -> Any:
    with RerankClient(address, policy=policy, **options) as client:
        return client.predict(predict_pb2.PredictRequest())


def async_call(address: str, policy: CallPolicy, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncRerankClient(address, policy=policy, **options) as client:
            return await client.predict(predict_pb2.PredictRequest())

    return asyncio.run(ask())


both = pytest.mark.parametrize("call", [sync_call, async_call], ids=["sync", "asyncio"])


# --- rankings ------------------------------------------------------------------------------------


def test_a_plain_request_comes_back_ranked(reranker_server: EmbeddedServer) -> None:
    with RerankClient(reranker_server.address, policy=PATIENT) as client:
        ranking = client.rerank(REQUEST)
        assert (ranking.source, ranking.version, ranking.request_id) == (MODEL, 1, "r")
        scores = [item.score for item in ranking.items]
        assert sorted(item.item_id for item in ranking.items) == [f"i{i}" for i in range(5)]
        assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
        assert all(REQUEST.candidates[item.position].item_id == item.item_id for item in ranking.items)
        assert client.rerank(REQUEST, top=2).items == ranking.items[:2]


def test_lists_of_several_lengths_in_one_call_rank_as_they_do_alone(reranker_server: EmbeddedServer) -> None:
    short = RerankRequest("u2", [Candidate("i7"), Candidate("i8")])
    with RerankClient(reranker_server.address, policy=PATIENT) as client:
        many = client.rerank_many([REQUEST, short])
        alone = [client.rerank(REQUEST), client.rerank(short)]
        assert [[i.item_id for i in each.items] for each in many] == [
            [i.item_id for i in each.items] for each in alone
        ]
        assert client.rerank_many([]) == []


def test_a_blocked_item_is_not_in_the_ranking(reranker_server: EmbeddedServer) -> None:
    request = RerankRequest("u1", [Candidate("i1"), Candidate("i2", blocked=True), Candidate("i3")])
    with RerankClient(reranker_server.address, policy=PATIENT) as client:
        assert sorted(item.item_id for item in client.rerank(request).items) == ["i1", "i3"]


def test_a_list_that_lacks_a_value_is_refused_with_what_it_lacks(reranker_server: EmbeddedServer) -> None:
    record = input_pb2.ExampleListWithContext.FromString(make_list(1))
    record.examples[2].features.feature["genres"].bytes_list.value.pop()
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "psad", "rerank_examples"
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto([record.SerializeToString()]))
    with grpc.insecure_channel(reranker_server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Predict(request, timeout=30)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "fewer values than its width" in raised.value.details()


def test_the_asyncio_client_gives_the_same_rankings(reranker_server: EmbeddedServer) -> None:
    async def ask() -> list[Any]:
        async with AsyncRerankClient(reranker_server.address, policy=PATIENT) as client:
            return list(await asyncio.gather(*(client.rerank(REQUEST) for _ in range(8))))

    with RerankClient(reranker_server.address, policy=PATIENT) as client:
        expected = client.rerank(REQUEST)
    assert [each.items for each in asyncio.run(ask())] == [expected.items] * 8


def test_an_unknown_model_is_an_error_without_fallback(reranker_server: EmbeddedServer) -> None:
    with RerankClient(reranker_server.address, model=ModelChoice("nope"), policy=PATIENT) as client:
        assert code_of(lambda: client.rerank(REQUEST)) is grpc.StatusCode.NOT_FOUND


# --- deadlines, retries, hedging, fallback -------------------------------------------------------


@both
def test_unavailable_is_retried(call: Callable[..., Any]) -> None:
    def answer(number: int, context: Any) -> predict_pb2.PredictResponse:
        if number < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return predict_pb2.PredictResponse()

    with scripted(answer) as (address, servicer):
        call(address, CallPolicy(timeout=30, fallback=False))
        assert servicer.calls == 3


@both
@pytest.mark.parametrize("name", ["RESOURCE_EXHAUSTED", "INTERNAL", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED"])
def test_nothing_else_is_retried(call: Callable[..., Any], name: str) -> None:
    code = grpc.StatusCode[name]
    with scripted(lambda _, context: context.abort(code, "no")) as (address, servicer):
        assert code_of(lambda: call(address, CallPolicy(timeout=30, fallback=False))) is code
        assert servicer.calls == 1


@both
@pytest.mark.parametrize("max_attempts", [1, 3])
def test_attempts_end(call: Callable[..., Any], max_attempts: int) -> None:
    policy = CallPolicy(timeout=30, fallback=False)
    with scripted(lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "no")) as (address, servicer):
        code = code_of(lambda: call(address, policy, max_attempts=max_attempts))
        assert code is grpc.StatusCode.UNAVAILABLE and servicer.calls == max_attempts


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"max_attempts": 0}, "1 to 5"), ({"max_attempts": 6}, "1 to 5")],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RerankClient("localhost:1", **wrong)


@both
def test_a_slow_first_answer_is_overtaken_by_the_hedge(call: Callable[..., Any]) -> None:
    release = threading.Event()

    def answer(number: int, context: Any) -> predict_pb2.PredictResponse:
        if number == 1:
            release.wait(60)
        return predict_pb2.PredictResponse()

    with scripted(answer) as (address, servicer):
        try:
            call(address, CallPolicy(timeout=30, hedge_after=0.05, fallback=False))
            assert servicer.calls == 2
        finally:
            release.set()


@both
def test_a_fast_answer_is_not_hedged(call: Callable[..., Any]) -> None:
    with scripted(lambda *_: predict_pb2.PredictResponse()) as (address, servicer):
        call(address, CallPolicy(timeout=30, hedge_after=10, fallback=False))
        assert servicer.calls == 1


@both
def test_a_failure_of_one_hedged_call_waits_for_the_other(call: Callable[..., Any]) -> None:
    second_failed = threading.Event()

    def answer(number: int, context: Any) -> predict_pb2.PredictResponse:
        if number == 2:
            second_failed.set()
            context.abort(grpc.StatusCode.INTERNAL, "no")
        second_failed.wait(60)
        return predict_pb2.PredictResponse()

    with scripted(answer) as (address, _):
        call(address, CallPolicy(timeout=30, hedge_after=0.02, fallback=False))


@both
def test_the_deadline_holds_whatever_the_server_does(call: Callable[..., Any]) -> None:
    release = threading.Event()
    with scripted(lambda *_: release.wait(60) and predict_pb2.PredictResponse()) as (address, _):
        for hedge_after in (None, 0.05):
            start = time.monotonic()
            policy = CallPolicy(timeout=0.3, hedge_after=hedge_after, fallback=False)
            assert code_of(lambda policy=policy: call(address, policy)) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - start < 5
        release.set()


class DeafFuture:
    """A call whose transport never notices that its time is over."""

    cancelled = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("hedge_after", [None, 0.05])
def test_the_deadline_holds_when_the_transport_does_not_keep_it(hedge_after: float | None) -> None:
    calls: list[DeafFuture] = []

    def start() -> DeafFuture:
        calls.append(DeafFuture())
        return calls[-1]

    began = time.monotonic()
    with pytest.raises(RerankError, match="no answer in time"):
        first_answer(start, hedge_after, began + 0.2)
    assert 0.2 <= time.monotonic() - began < 2.0
    assert len(calls) == (1 if hedge_after is None else 2) and all(call.cancelled for call in calls)


def test_without_a_server_the_initial_order_is_returned_in_time() -> None:
    policy = CallPolicy(timeout=0.5)
    request = RerankRequest(
        "u", [Candidate("b"), Candidate("a", blocked=True), Candidate("c")], request_id="q"
    )
    start = time.monotonic()
    with RerankClient(free_address(), policy=policy) as client:
        ranking = client.rerank(request, top=5)
    assert [item.item_id for item in ranking.items] == ["b", "c"] and ranking.source == INITIAL_ORDER
    assert ranking.reason and ranking.version is None and ranking.request_id == "q"
    assert time.monotonic() - start < 5


def ranked(**changes: Any) -> predict_pb2.PredictResponse:
    """A good answer to REQUEST, i4 first, with outputs changed."""
    order = [4, 3, 2, 1, 0]
    outputs = {
        "scores": np.arange(5, dtype=np.float32)[np.newaxis],
        "probabilities": np.full([1, 5], 0.5, np.float32),
        "ranking": np.array([order], np.int32),
        "item_ids": np.array([[f"i{position}".encode() for position in order]], object),
        "length": np.array([5], np.int32),
    } | changes
    response = predict_pb2.PredictResponse()
    for name, values in outputs.items():
        response.outputs[name].CopyFrom(typed_proto(tf.make_tensor_proto(values).SerializeToString()))
    return response


def test_a_good_answer_is_taken() -> None:
    assert [item.position for item in ranking_from_outputs(REQUEST, ranked(), None).items] == [4, 3, 2, 1, 0]
    assert [item.item_id for item in ranking_from_outputs(REQUEST, ranked(), 2).items] == ["i4", "i3"]


IDS = np.array([[b"i4", b"i3", b"i2", b"i1", b"i0"]], object)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": np.array([[0, 1, np.nan, 3, 4]], np.float32)}, "score of candidate 2 is not a finite"),
        ({"scores": np.array([[0, 1, 2, 3, np.inf]], np.float32)}, "score of candidate 4 is not a finite"),
        ({"probabilities": np.full([1, 5], np.nan, np.float32)}, "not a finite number"),
        ({"ranking": np.array([[4, 4, 2, 1, 0]], np.int32)}, "not a ranking"),
        ({"ranking": np.array([[4, 3, 2, 1, 9]], np.int32)}, "not a ranking"),
        ({"ranking": np.array([[4, 3, 2, 1, -1]], np.int32)}, "not a ranking"),
        ({"item_ids": IDS[:, ::-1]}, "not a ranking"),
        ({"item_ids": np.array([[b"i4", b"i3", b"", b"", b""]], object)}, "not a ranking"),
        ({"ranking": np.array([[4, 3, 2, 1]], np.int32)}, "not a ranking"),
        ({"length": np.array([4], np.int32)}, "not a ranking"),
    ],
    ids=str,
)
def test_an_answer_that_makes_no_sense_is_never_taken(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RerankError, match=reason):
        ranking_from_outputs(REQUEST, ranked(**changes), None)


@pytest.mark.slow
def test_a_score_that_is_no_number_falls_back_with_the_reason(
    tiny_run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end, on a model whose weights are NaN (which `psad export` itself would refuse)."""
    monkeypatch.setattr(served_layers, "CONSTANT_TABLE_BYTES", 0)
    loaded = tf.saved_model.load(export_saved_model(tiny_run, tmp_path / "sound"))
    for variable in loaded.parameters.values():
        if variable.shape.rank:
            variable.assign(tf.fill(variable.shape, float("nan")))
    tf.saved_model.save(loaded, str(tmp_path / "psad" / "1"), signatures=loaded.signatures)
    settings = ServerSettings(file_system_poll_wait_seconds=0)
    with EmbeddedServer.of_model("psad", tmp_path / "psad", settings) as server:
        with RerankClient(server.address, policy=CallPolicy(timeout=30)) as client:
            ranking = client.rerank(REQUEST)
    assert ranking.source == INITIAL_ORDER and "not a finite number" in ranking.reason
    assert [item.item_id for item in ranking.items] == ["i0", "i1", "i2", "i3", "i4"]


def test_an_answer_that_is_no_ranking_falls_back(models: pathlib.Path) -> None:
    settings = ServerSettings(file_system_poll_wait_seconds=0)
    with EmbeddedServer.of_model("psad", models, settings) as server:
        with RerankClient(server.address, policy=CallPolicy(timeout=30)) as client:
            assert "no signature of a reranker" in client.rerank(REQUEST).reason


@pytest.mark.slow
def test_a_killed_and_restarted_server_loses_no_request(exported: pathlib.Path) -> None:
    """Every request ends in time with the model's ranking or the initial order, across a restart."""
    port = int(free_address().rsplit(":", 1)[1])
    settings = ServerSettings(port=port, file_system_poll_wait_seconds=0)
    answers: list[tuple[str, float]] = []
    phase, ended = {"now": MODEL}, threading.Event()
    reached = {name: threading.Semaphore(0) for name in (MODEL, INITIAL_ORDER)}

    def load() -> None:
        policy = CallPolicy(timeout=1.0)
        with RerankClient(f"127.0.0.1:{port}", policy=policy) as client:
            while not ended.is_set():
                start = time.monotonic()
                ranking = client.rerank(REQUEST)
                answers.append((ranking.source, time.monotonic() - start))
                assert len(ranking.items) == 5
                if ranking.source == phase["now"]:
                    reached[ranking.source].release()

    with futures.ThreadPoolExecutor(2) as pool:
        server = EmbeddedServer.of_model("psad", exported.parent, settings).start()
        loads = [pool.submit(load) for _ in range(2)]
        assert reached[MODEL].acquire(timeout=60)
        phase["now"] = INITIAL_ORDER
        server.stop(0)  # running requests are cut off, as by a kill
        assert reached[INITIAL_ORDER].acquire(timeout=60)
        server = EmbeddedServer.of_model("psad", exported.parent, settings).start()
        phase["now"] = MODEL
        while reached[MODEL].acquire(blocking=False):
            continue
        assert reached[MODEL].acquire(timeout=60)
        ended.set()
        for each in loads:
            each.result(timeout=60)
        server.stop(1)
    assert max(seconds for _, seconds in answers) < 3.0


# --- the command ---------------------------------------------------------------------------------


def test_the_command_ranks_json_lines(
    reranker_server: EmbeddedServer, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text('{"item_id": "i1", "year": 1990, "genres": ["war"]}\n')
    lines = tmp_path / "requests.jsonl"
    interactions = tmp_path / "interactions.jsonl"
    interactions.write_text('{"user_id": "u1", "item_id": "i1", "time": 5, "feedback": {"rating": 2}}\n')
    record = {"request_id": "r1", "user_id": "u1", "time": 1_700_000_000, "split": "test"}
    candidates = [{"item_id": f"i{i}", "initial_score": 0.1, "feedback": {}} for i in range(3)]
    lines.write_text("".join(json.dumps(record | {"candidates": candidates}) + "\n" for _ in range(2)))
    options = ["--server", reranker_server.address, "--items", str(items), "--top", "2", "--timeout", "30"]
    assert main(["rerank", *options, "--input", str(lines)]) == 0
    without_history = capsys.readouterr().out
    assert main(["rerank", *options, "--input", str(lines), "--interactions", str(interactions)]) == 0
    captured = capsys.readouterr()
    assert captured.out != without_history
    answers = [json.loads(line) for line in captured.out.splitlines()]
    assert [(each["request_id"], each["source"], len(each["items"])) for each in answers] == [
        ("r1", MODEL, 2)
    ] * 2
    assert "ranked 2 lists" in captured.err


def test_the_command_reads_standard_input_and_names_a_bad_line(
    reranker_server: EmbeddedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.dumps({"user_id": "u", "candidates": [{"item_id": "i1"}]})
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{good}\n\n{{oops\n"))
    assert main(["rerank", "--server", reranker_server.address, "--timeout", "30"]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 and "standard input:3: not JSON" in captured.err


def test_the_command_without_fallback_fails_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    lines = tmp_path / "requests.jsonl"
    lines.write_text('{"user_id": "u", "candidates": [{"item_id": "i1"}]}\n')
    options = ["--server", free_address(), "--input", str(lines), "--timeout", "0.3", "--no_fallback"]
    assert main(["rerank", *options]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().out


def test_predict_examples_sends_serialized_lists(reranker_server: EmbeddedServer) -> None:
    with RerankClient(reranker_server.address, policy=PATIENT) as client:
        response = client.predict_examples([make_list(1, 4), make_list(2, 6)])
        assert [dim.size for dim in response.outputs["scores"].tensor_shape.dim] == [2, 6]
