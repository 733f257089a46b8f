from __future__ import annotations

import concurrent.futures
import gc
import pathlib
import sys
import threading
from typing import Any

import grpc
import psutil
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from psad_tf.data.list_folder import read_serialized
from psad_tf.serving.client.conversation import ModelChoice, examples_request
from psad_tf.serving.server import Batching, EmbeddedServer, ServerSettings
from psad_tf.serving.server.loader import LoadedVersion
from psad_tf.serving.server.status import ServingError
from tests.psad_tf.serving.tiny_models import LIMITS, lists_examples, lists_request, scale_request

pytestmark = pytest.mark.slow

# A batch waits until it is full: what is answered was answered together.
FULL_OR_NEVER = Batching(max_batch_size=4, batch_timeout_micros=60_000_000, num_batch_threads=1)
AT_ONCE = Batching(max_batch_size=4, batch_timeout_micros=0, num_batch_threads=1)
LENGTHS = [(candidates, history) for candidates in (1, 2, 7, 19, 20, 21, 33, 40) for history in (0, 1, 3, 5)]


def load(base: pathlib.Path, batching: Batching | None = None) -> LoadedVersion:
    return LoadedVersion("lists", 1, str(base / "1"), batching=batching)


def answer(loaded: LoadedVersion, request: Any) -> dict[str, Any]:
    outputs = loaded.signature(request.model_spec.signature_name).run(request.inputs)
    return {
        name: [*(tensor.float_val or tensor.int_val or tensor.string_val)] for name, tensor in outputs.items()
    }


def together(loaded: LoadedVersion, requests: list[Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:

        def ask(request: Any) -> Any:
            try:
                return answer(loaded, request)
            except ServingError as error:
                return error

        return list(pool.map(ask, requests))


@pytest.mark.parametrize("of", [lists_request, lists_examples], ids=["tensors", "examples"])
def test_lists_of_a_size_share_a_batch_and_each_is_answered_at_its_own_length(
    lists_model: pathlib.Path, of: Any
) -> None:
    lengths = (3, 20, 1, 12)
    answers = together(load(lists_model, FULL_OR_NEVER), [of(length) for length in lengths])
    for length, found in zip(lengths, answers, strict=True):
        assert found["together"] == [4] and found["history"] == [2]
        assert found["scores"] == [float(each) for each in range(length)]
        assert found["item_ids"] == [str(each).encode() for each in range(length)]


@pytest.mark.parametrize("of", [lists_request, lists_examples], ids=["tensors", "examples"])
def test_a_list_never_pays_for_one_of_another_size(lists_model: pathlib.Path, of: Any) -> None:
    loaded = load(lists_model, FULL_OR_NEVER)
    answers = together(loaded, [of(3)] * 4 + [of(40)] * 4)  # sizes are 20 and 40
    assert [found["together"] for found in answers] == [[4]] * 8
    assert {found["width"][0] for found in answers[:4]} <= {3, 20}


@pytest.mark.parametrize("of", [lists_request, lists_examples], ids=["tensors", "examples"])
def test_every_shape_is_served_by_graphs_that_are_there_from_the_start(
    lists_model: pathlib.Path, of: Any
) -> None:
    loaded = load(lists_model, AT_ONCE)
    assert loaded._session is not None
    graph = loaded._session.graph
    before = len(graph.get_operations())
    for candidates, history in LENGTHS:
        request = of(candidates, history) if of is lists_request else of(candidates)
        found = answer(loaded, request)
        assert found["scores"] == [float(each) for each in range(candidates)]
        assert of is lists_examples or found["history"] == [min(history, LIMITS.history_length)]
    assert len(graph.get_operations()) == before


def test_lists_of_several_lengths_in_one_request_are_padded_to_its_longest(lists_model: pathlib.Path) -> None:
    found = answer(load(lists_model, AT_ONCE), lists_examples(2, 5))
    assert found["item_ids"] == [b"0", b"1", b"", b"", b"", b"0", b"1", b"2", b"3", b"4"]


def test_a_list_that_is_too_long_is_refused_by_the_graph(lists_model: pathlib.Path) -> None:
    with pytest.raises(ServingError, match="more than 40 candidates"):
        answer(load(lists_model, FULL_OR_NEVER), lists_examples(41))


def test_a_damaged_list_in_a_batch_fails_alone(exported: pathlib.Path, tiny_lists: pathlib.Path) -> None:
    loaded = LoadedVersion("psad", 1, str(exported), batching=FULL_OR_NEVER, warmup=False)
    good = next(read_serialized(tiny_lists, "test").as_numpy_iterator())
    lists = (good, b"\xff\xff\xff", good, good)
    answers = together(loaded, [examples_request(ModelChoice(), [each]) for each in lists])
    assert [isinstance(found, ServingError) for found in answers] == [False, True, False, False]
    assert answers[1].code is grpc.StatusCode.DATA_LOSS


def test_a_request_larger_than_a_batch_is_refused(lists_model: pathlib.Path) -> None:
    with pytest.raises(ServingError, match="larger than maximum input batch size 4"):
        answer(load(lists_model, FULL_OR_NEVER), lists_request(1, lists=6))


def test_an_empty_request_has_an_empty_answer(lists_model: pathlib.Path) -> None:
    assert answer(load(lists_model, FULL_OR_NEVER), lists_request(3, lists=0))["scores"] == []


def test_a_model_that_is_no_reranker_is_not_batched(models: pathlib.Path) -> None:
    loaded = LoadedVersion("scale", 2, str(models / "2"), batching=FULL_OR_NEVER)
    assert answer(loaded, scale_request([[1.0, 2.0]]))["y"] == [2.0, 4.0]  # alone, and at once


def test_a_full_batch_queue_is_resource_exhausted(lists_model: pathlib.Path) -> None:
    """One batch waits to fill, one may queue behind it: of many more, some must be refused at once."""
    loaded = load(lists_model, Batching(2, 300_000, max_enqueued_batches=1, num_batch_threads=1))
    answers = together(loaded, [lists_request(3, lists=2) for _ in range(64)])
    codes = {found.code for found in answers if isinstance(found, ServingError)}
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert any(not isinstance(found, ServingError) for found in answers)


def test_a_version_that_leaves_gives_its_threads_back(lists_model: pathlib.Path) -> None:
    def threads() -> set[int]:  # by number: those of earlier tests may be ending
        return {thread.id for thread in psutil.Process().threads()}

    def load_and_retire() -> set[int]:
        before = threads()
        loaded = load(lists_model, Batching(4, 100, num_batch_threads=3))
        answer(loaded, lists_request(3))
        own = threads() - before
        assert loaded.retire(1.0)
        with pytest.raises(ServingError, match="not found"):
            loaded.signature("")
        return own

    load_and_retire()  # the first in a process starts TensorFlow's own threads
    own = load_and_retire()
    assert len(own) == 3 and not own & threads()


@pytest.mark.parametrize("batching", [None, AT_ONCE], ids=["alone", "batched"])
def test_a_request_leaves_no_memory_behind(lists_model: pathlib.Path, batching: Batching | None) -> None:
    loaded = load(lists_model, batching)
    inputs, signature = lists_request(3).inputs, loaded.signature("")

    def blocks_after(requests: int) -> int:
        for _ in range(requests):
            signature.run(inputs)
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(300)
    assert blocks_after(1000) - before < 300  # one lost block a request would be 1000


def test_a_batching_server_answers_many_clients(lists_model: pathlib.Path) -> None:
    settings = ServerSettings(
        batching=Batching(8, 2000, num_batch_threads=1), file_system_poll_wait_seconds=0
    )
    with EmbeddedServer.of_model("lists", lists_model, settings) as server:
        wrong: list[object] = []

        def ask(length: int) -> None:
            with grpc.insecure_channel(server.address) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                for _ in range(10):
                    scores = list(
                        stub.Predict(lists_examples(length), timeout=30).outputs["scores"].float_val
                    )
                    if scores != [float(each) for each in range(length)]:
                        wrong.append(scores)

        threads = [threading.Thread(target=ask, args=(length,)) for length in (1, 4, 19, 22, 30, 40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
