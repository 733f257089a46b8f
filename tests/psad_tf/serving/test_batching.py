from __future__ import annotations

import concurrent.futures
import gc
import pathlib
import sys
import threading
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from psad_tf.data.list_folder import read_serialized
from psad_tf.serving.connection import ModelChoice, examples_request
from psad_tf.serving.loader import LoadedVersion
from psad_tf.serving.server import EmbeddedServer
from psad_tf.serving.settings import Batching, ServerSettings
from psad_tf.serving.status import ServingError
from tests.psad_tf.serving.tiny_models import parse_request, scale_request

# A batch waits until it is full: what is answered was answered together.
FULL_OR_NEVER = Batching(max_batch_size=4, batch_timeout_micros=60_000_000, num_batch_threads=1)


def load(models: pathlib.Path, batching: Batching) -> LoadedVersion:
    return LoadedVersion("scale", 2, str(models / "2"), batching=batching)


def together(loaded: LoadedVersion, requests: list[Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:

        def answer(request: Any) -> Any:
            try:
                return loaded.signature(request.model_spec.signature_name).run(request.inputs)
            except ServingError as error:
                return error

        return list(pool.map(answer, requests))


def test_requests_are_computed_in_one_batch_and_each_gets_its_own_rows(models: pathlib.Path) -> None:
    loaded = load(models, FULL_OR_NEVER)
    sizes = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0]]]
    answers = together(loaded, [scale_request(values) for values in sizes])
    for values, answer in zip(sizes, answers, strict=True):
        assert list(answer["y"].float_val) == [2.0 * each for row in values for each in row]


def test_requests_of_other_lengths_do_not_share_a_batch(models: pathlib.Path) -> None:
    loaded = load(models, FULL_OR_NEVER)
    short, long = [[1.0]], [[1.0, 2.0, 3.0]]
    answers = together(loaded, [scale_request(short)] * 4 + [scale_request(long)] * 4)
    assert [list(answer["y"].float_val) for answer in answers] == [[2.0]] * 4 + [[2.0, 4.0, 6.0]] * 4


@pytest.mark.parametrize("bad", ["x", b"\xbf"])
def test_a_bad_request_in_a_batch_fails_alone(models: pathlib.Path, bad: str | bytes) -> None:
    loaded = load(models, FULL_OR_NEVER)
    answers = together(loaded, [parse_request([text]) for text in ("1", bad, "3", "4")])
    assert isinstance(answers[1], ServingError) and answers[1].code is grpc.StatusCode.INVALID_ARGUMENT
    assert [list(answers[index]["number"].float_val) for index in (0, 2, 3)] == [[2.0], [6.0], [8.0]]


def test_a_damaged_list_in_a_batch_fails_alone(exported: pathlib.Path, tiny_lists: pathlib.Path) -> None:
    loaded = LoadedVersion("psad", 1, str(exported), batching=FULL_OR_NEVER, warmup=False)
    good = next(read_serialized(tiny_lists, "test").as_numpy_iterator())
    lists = (good, b"\xff\xff\xff", good, good)
    answers = together(loaded, [examples_request(ModelChoice(), [each]) for each in lists])
    assert [isinstance(answer, ServingError) for answer in answers] == [False, True, False, False]


def test_a_request_larger_than_a_batch_is_refused_or_split(models: pathlib.Path) -> None:
    large = scale_request(np.ones([6, 1]))
    with pytest.raises(ServingError, match="larger than maximum input batch size 4"):
        load(models, FULL_OR_NEVER).signature("").run(large.inputs)
    splitting = Batching(4, 1000, num_batch_threads=1, enable_large_batch_splitting=True)
    answer = load(models, splitting).signature("").run(large.inputs)
    assert list(answer["y"].float_val) == [2.0] * 6


def test_allowed_sizes_pad_a_batch_and_the_padding_is_cut_off(models: pathlib.Path) -> None:
    padding = Batching(8, 1000, num_batch_threads=1, allowed_batch_sizes=(4, 8))
    answer = load(models, padding).signature("").run(scale_request([[1.0], [2.0]]).inputs)
    assert list(answer["y"].float_val) == [2.0, 4.0]


def test_inputs_of_different_batch_sizes_are_refused(models: pathlib.Path) -> None:
    request = scale_request([[1.0], [2.0]])
    request.inputs["tag"].CopyFrom(tf.make_tensor_proto([b"one"]))
    with pytest.raises(ServingError, match="equal 0th-dimension size"):
        load(models, FULL_OR_NEVER).signature("").run(request.inputs)


def test_an_empty_request_has_an_empty_answer(models: pathlib.Path) -> None:
    answer = load(models, FULL_OR_NEVER).signature("").run(scale_request(np.ones([0, 3])).inputs)
    assert [dim.size for dim in answer["y"].tensor_shape.dim] == [0, 3]


def test_a_full_batch_queue_is_resource_exhausted(models: pathlib.Path) -> None:
    """One batch waits to fill, one may queue behind it: of many more, some must be refused at once."""
    batching = Batching(2, 300_000, max_enqueued_batches=1, num_batch_threads=1)
    loaded = load(models, batching)
    answers = together(loaded, [scale_request([[1.0]] * 2) for _ in range(64)])
    codes = {answer.code for answer in answers if isinstance(answer, ServingError)}
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert any(not isinstance(answer, ServingError) for answer in answers)


def test_a_version_that_leaves_gives_its_threads_back(models: pathlib.Path) -> None:
    def threads() -> set[int]:  # by number: those of earlier tests may be ending
        return {thread.id for thread in psutil.Process().threads()}

    def load_and_retire() -> set[int]:
        before = threads()
        loaded = load(models, Batching(4, 100, num_batch_threads=3))
        loaded.signature("").run(scale_request().inputs)
        own = threads() - before
        assert loaded.retire(1.0)
        with pytest.raises(ServingError, match="not found"):
            loaded.signature("")
        return own

    load_and_retire()  # the first in a process starts TensorFlow's own threads
    own = load_and_retire()
    assert len(own) == 3 and not own & threads()


@pytest.mark.parametrize("batching", [None, Batching(4, 0, num_batch_threads=1)], ids=["alone", "batched"])
def test_a_request_leaves_no_memory_behind(models: pathlib.Path, batching: Batching | None) -> None:
    loaded = LoadedVersion("scale", 2, str(models / "2"), batching=batching)
    inputs, signature = scale_request().inputs, loaded.signature("")

    def blocks_after(requests: int) -> int:
        for _ in range(requests):
            signature.run(inputs)
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(300)
    assert blocks_after(1000) - before < 300  # one lost block a request would be 1000


def test_a_batching_server_answers_many_clients(models: pathlib.Path) -> None:
    settings = ServerSettings(
        batching=Batching(8, 2000, num_batch_threads=1), rest_api_port=None, file_system_poll_wait_seconds=0
    )
    with EmbeddedServer.of_model("scale", models, settings) as server:
        wrong: list[object] = []

        def ask(number: float) -> None:
            with grpc.insecure_channel(server.address) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                for _ in range(10):
                    answer = list(stub.Predict(scale_request([[number]]), timeout=30).outputs["y"].float_val)
                    if answer != [2.0 * number]:
                        wrong.append(answer)

        threads = [threading.Thread(target=ask, args=(float(each),)) for each in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
