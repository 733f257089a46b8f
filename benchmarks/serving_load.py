"""Load on a gRPC server, in a process of its own: python -m benchmarks.serving_load (used by bench_serving).

Arrivals are a Poisson process of the given rate and wait for nobody (open loop), but at most `--clients`
requests are under way at once (bounded); a latency counts from the moment the request was due, so a server
that falls behind cannot hide it. Rate 0 keeps all clients busy, which measures throughput.

Imports no TensorFlow: the requests come ready from a file, one base64 line each.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import threading
import time

import grpc

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Load:
    """Sends requests and keeps what became of them.

    Args:
        address: host:port.
        requests: Serialized PredictRequests, sent in turn.
        clients: Connections, and requests under way at most.
        timeout: Seconds for one request.
    """

    def __init__(self, address: str, requests: list[bytes], clients: int, timeout: float) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channels = [grpc.insecure_channel(address, options) for _ in range(clients)]
        self._calls = [channel.unary_unary(PREDICT) for channel in self._channels]
        for channel in self._channels:
            grpc.channel_ready_future(channel).result(timeout=30)
        self._requests = requests
        self._timeout = timeout
        self._free = threading.Semaphore(clients)
        self._lock = threading.Lock()
        self._clients = clients
        self.latencies: list[float] = []
        self.failures: dict[str, int] = {}

    def run(self, rate: float, seconds: float, seed: int = 0) -> float:
        """Sends for so many seconds and waits for the last answer; gives the seconds that it all took."""
        rng = random.Random(seed)
        self.latencies, self.failures = [], {}
        start = due = time.perf_counter()
        sent = 0
        while True:
            if rate > 0:
                due += rng.expovariate(rate)
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
            self._free.acquire()
            now = time.perf_counter()
            if max(now, due) - start >= seconds:
                self._free.release()
                break
            self._send(sent, due if rate > 0 else now)
            sent += 1
        for _ in range(self._clients):
            self._free.acquire()
        ended = time.perf_counter()
        for _ in range(self._clients):
            self._free.release()
        return ended - start

    def _send(self, number: int, due: float) -> None:
        call = self._calls[number % self._clients].future(
            self._requests[number % len(self._requests)], timeout=self._timeout
        )

        def finished(done: grpc.Future) -> None:
            code = done.code()
            if code is grpc.StatusCode.OK:
                self.latencies.append(time.perf_counter() - due)
            else:
                with self._lock:
                    self.failures[code.name] = self.failures.get(code.name, 0) + 1
            self._free.release()

        call.add_done_callback(finished)

    def close(self) -> None:
        """Ends the connections."""
        for channel in self._channels:
            channel.close()


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    3.0
    """
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def main() -> None:
    """Runs one load and prints what it measured as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--requests", required=True, help="file, one base64 PredictRequest a line")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests per second; 0 for as many as possible"
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup_seconds", type=float, default=1.0)
    parser.add_argument("--timeout", type=float, default=30.0)
    arguments = parser.parse_args()
    with open(arguments.requests, "rb") as file:
        requests = [base64.b64decode(line) for line in file]
    load = Load(arguments.address, requests, arguments.clients, arguments.timeout)
    if arguments.warmup_seconds > 0:
        load.run(0.0, arguments.warmup_seconds)
    print("started", flush=True)
    cpu = time.process_time()
    seconds = load.run(arguments.rate, arguments.seconds)
    cpu = time.process_time() - cpu
    milliseconds = [1e3 * each for each in load.latencies]
    answer = {
        "answered": len(milliseconds),
        "failures": load.failures,
        "seconds": seconds,
        "throughput": len(milliseconds) / seconds,
        "client_cpu_ms": 1e3 * cpu / max(len(milliseconds), 1),  # on the machine that the server runs on, too
        "p50_ms": percentile(milliseconds, 0.5),
        "p99_ms": percentile(milliseconds, 0.99),
        "p999_ms": percentile(milliseconds, 0.999),
    }
    load.close()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
