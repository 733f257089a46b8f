"""The long reliability runs of bench_serving; short versions are in the test suite."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import socket
import threading
import time
from collections import Counter

import grpc
import numpy as np
import psutil
from tensorflow_serving.apis import predict_pb2

from benchmarks.serving_load import PREDICT
from benchmarks.serving_setup import BATCHING, lists_of, serving, write_requests
from psad_tf.data.list_folder import load_encoder
from psad_tf.errors import InputError
from psad_tf.export.warmup import predict_request, raw_tensors
from psad_tf.serving.client import CallPolicy, Candidate, ModelChoice, RerankClient, RerankRequest
from psad_tf.serving.contract import EXAMPLES, RERANK_EXAMPLES, SERVING_DEFAULT
from psad_tf.serving.server import Batching, EmbeddedServer, ServerSettings

_CALM_SECONDS = 2.0  # between swaps, for the latencies that those during one are compared with
_UNFORESEEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)
_REQUEST = RerankRequest("1", [Candidate(str(item), float(-item)) for item in range(1, 21)])


@dataclasses.dataclass(frozen=True)
class Kill:
    """Requests across a SIGKILL and a restart: each has an answer, at the latest near its deadline."""

    requests: int
    by_model: int
    initial_order: int
    lost: int
    deadline_ms: float
    slowest_ms: float


def kill_and_restart(work_dir: str, model_dir: str, clients: int = 8) -> Kill:
    """Kills the server process under load and starts it again on the same port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    policy = CallPolicy(timeout=0.25)
    counts: Counter[str] = Counter()
    slowest = [0.0] * clients
    ended = threading.Event()

    def ask(number: int) -> None:
        with RerankClient(f"127.0.0.1:{port}", model=ModelChoice("plain"), policy=policy) as client:
            while not ended.is_set():
                start = time.perf_counter()
                ranking = client.rerank(_REQUEST)
                slowest[number] = max(slowest[number], time.perf_counter() - start)
                counts["lost" if len(ranking.items) != 20 else ranking.source] += 1
                time.sleep(0.02)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    with serving(work_dir, {"plain": model_dir}, port=port) as server:
        for thread in threads:
            thread.start()
        time.sleep(3)
        server.process.kill()
    time.sleep(2)
    with serving(work_dir, {"plain": model_dir}, port=port):
        before = counts["model"]
        limit = time.monotonic() + 60
        while counts["model"] < before + 50 and time.monotonic() < limit:
            time.sleep(0.1)
        ended.set()
        for thread in threads:
            thread.join()
    if counts["model"] < before + 50:
        raise InputError("the clients did not find the restarted server")
    return Kill(
        sum(counts.values()),
        counts["model"],
        counts["initial_order"],
        counts["lost"],
        1e3 * policy.timeout,
        1e3 * max(slowest),
    )


@dataclasses.dataclass(frozen=True)
class Swaps:
    """Requests across version swaps; `growth_mib`: most memory in the second half less that in the first.

    The most, because what a version leaves in Python goes at the next garbage collection only. The 99th
    percentiles are of requests that began while no version was being loaded, and while one was.
    """

    swaps: int
    requests: int
    failures: int
    versions_seen: int
    growth_mib: float
    calm_p99_ms: float
    loading_p99_ms: float


def swap(work_dir: str, model_dir: str, lists_dir: str, swaps: int, clients: int = 8) -> Swaps:
    """Puts new versions of the real model in place under load, batched, and removes the old ones."""
    base = os.path.join(work_dir, "swapping")
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(model_dir, os.path.join(base, "1"))
    request = write_requests(os.path.join(work_dir, "one.txt"), "plain", lists_of(lists_dir, 20, 1))[0]
    settings = ServerSettings(file_system_poll_wait_seconds=0, batching=Batching(**BATCHING))
    counts: Counter[str] = Counter()
    ended, loading = threading.Event(), threading.Event()
    latencies: dict[bool, list[float]] = {False: [], True: []}
    memory = []
    with EmbeddedServer.of_model("plain", base, settings) as server:

        def ask() -> None:
            with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                predict = channel.unary_unary(PREDICT)
                while not ended.is_set():
                    try:
                        while_loading, start = loading.is_set(), time.perf_counter()
                        predict(request, timeout=30)
                        latencies[while_loading].append(1e3 * (time.perf_counter() - start))
                        counts["answered"] += 1
                    except grpc.RpcError as error:
                        counts[error.code().name] += 1

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for version in range(2, swaps + 2):
            aside = os.path.join(base, f"{version}.tmp")
            shutil.copytree(model_dir, aside)
            os.rename(aside, os.path.join(base, str(version)))
            loading.set()
            server.manager.poll()
            loading.clear()
            shutil.rmtree(os.path.join(base, str(version - 1)))
            time.sleep(_CALM_SECONDS)
            memory.append(psutil.Process().memory_info().rss / 2**20)
        ended.set()
        for thread in threads:
            thread.join()
        seen = len(server.manager.states("plain"))
    failures = sum(counts.values()) - counts["answered"]
    half = swaps // 2
    growth = max(memory[half:]) - max(memory[:half])
    calm, felt = (float(np.percentile(latencies[each], 99)) for each in (False, True))
    return Swaps(
        swaps, sum(counts.values()), failures, seen, round(growth, 1), round(calm, 2), round(felt, 2)
    )


@dataclasses.dataclass(frozen=True)
class Fuzz:
    """Answers to random and damaged requests, counted by status code; `unforeseen` had no handler."""

    requests: int
    codes: dict[str, int]
    unforeseen: int
    leaks: int
    still_serving: bool


def fuzz(work_dir: str, model_dir: str, lists_dir: str, requests: int, seed: int = 1) -> Fuzz:
    """Sends malformed requests; no answer may tell a path or a traceback, or be an error unforeseen.

    Half of them are whole protos with fields that do not fit (names, types, shapes, contents, damaged
    lists), the rest random bytes and real requests with changed bytes, most of which gRPC itself refuses.
    """
    rng = random.Random(seed)
    declaration = load_encoder(lists_dir).declaration
    lists = lists_of(lists_dir, 8, 2)
    good = [
        predict_request("plain", RERANK_EXAMPLES, {EXAMPLES: np.array(lists, dtype=object)}),
        predict_request("plain", SERVING_DEFAULT, raw_tensors(lists, declaration)),
    ]
    codes: Counter[str] = Counter()
    unforeseen = leaks = 0
    with serving(work_dir, {"plain": model_dir}) as server, grpc.insecure_channel(server.address) as channel:
        predict = channel.unary_unary(PREDICT)
        for _ in range(requests):
            request, kind = rng.choice(good), rng.random()
            if kind < 0.5:
                body = malformed(request, rng)
            elif kind < 0.8:
                body = damaged(request.SerializeToString(), rng)
            else:
                body = rng.randbytes(rng.randrange(300))
            try:
                predict(body, timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                details = error.details() or ""
                unparsed = error.code() is grpc.StatusCode.INTERNAL and "deserializing" in details
                codes["not a proto" if unparsed else error.code().name] += 1
                unforeseen += not unparsed and error.code() in _UNFORESEEN
                leaks += any(each in details for each in ("Traceback", ".py", os.getcwd(), "site-packages"))
        still = all(predict(each.SerializeToString(), timeout=30) for each in good)
    return Fuzz(requests, dict(codes), unforeseen, leaks, still)


def malformed(good: predict_pb2.PredictRequest, rng: random.Random) -> bytes:
    """A whole proto with some of its fields changed to what does not fit."""
    request = predict_pb2.PredictRequest()
    request.CopyFrom(good)
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(sorted(request.inputs) or ["none"])
        tensor = request.inputs[name]
        change = rng.randrange(10)
        if change == 0:
            request.model_spec.signature_name = rng.choice(["", "other", RERANK_EXAMPLES, SERVING_DEFAULT])
        elif change == 1:
            request.model_spec.version.value = rng.choice([0, 1, -1, 2**62])
        elif change == 2:
            del request.inputs[name]
        elif change == 3:
            request.inputs[rng.choice(["more", "", name.upper()])].CopyFrom(tensor)
        elif change == 4:
            tensor.dtype = rng.randrange(30)
        elif change == 5:
            for dimension in tensor.tensor_shape.dim:
                dimension.size = rng.choice([dimension.size, 0, 1, 7, -1, 2**40, 2**62])
        elif change == 6:
            tensor.tensor_shape.dim.add(size=rng.choice([0, 1, 2, 2**31]))
        elif change == 7:
            tensor.tensor_content = rng.randbytes(rng.randrange(64))
        elif change == 8 and tensor.string_val:
            at = rng.randrange(len(tensor.string_val))
            tensor.string_val[at] = damaged(tensor.string_val[at] or b"x", rng)
        else:
            request.output_filter.append(rng.choice(["scores", "ranking", "nothing", ""]))
    return request.SerializeToString()


def damaged(good: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out or doubled."""
    body = bytearray(good)
    for _ in range(rng.randrange(1, 10)):
        at = rng.randrange(len(body))
        kind = rng.randrange(4)
        if kind == 0:
            body[at] = rng.randrange(256)
        elif kind == 1:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del body[at : at + rng.randrange(1, 20)]
        else:
            body[at:at] = body[at : at + rng.randrange(1, 40)]
        if not body:
            return b""
    return bytes(body)
