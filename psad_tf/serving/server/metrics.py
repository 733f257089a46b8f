"""What the server counts, and the page on which Prometheus reads it."""

from __future__ import annotations

import prometheus_client

from psad_tf.errors import InputError

_BOUNDS = tuple(10 * 1.8**power for power in range(33))  # microseconds, TensorFlow Serving's buckets
_PREFIX = ":tensorflow:serving:"


class Metrics:
    """Requests by model and status, latency by model and method, and requests under way.

    The names are TensorFlow Serving's; prometheus-client adds `_total` to the counter's.
    """

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            f"{_PREFIX}request_count", "Requests", ["model_name", "status"], registry=self.registry
        )
        self._latency = prometheus_client.Histogram(
            f"{_PREFIX}request_latency",
            "Microseconds from a request's start to its answer",
            ["model_name", "API", "entrypoint"],
            buckets=_BOUNDS,
            registry=self.registry,
        )
        self._runtime = prometheus_client.Histogram(
            f"{_PREFIX}runtime_latency",
            "Microseconds in the graph, waiting for a batch included",
            ["model_name", "API", "runtime"],
            buckets=_BOUNDS,
            registry=self.registry,
        )
        self.in_flight = prometheus_client.Gauge(
            ":psad:serving:in_flight", "Requests under way", registry=self.registry
        )

    def request(self, model: str, status: str, api: str, seconds: float) -> None:
        """Records one request."""
        self._requests.labels(model, status).inc()
        self._latency.labels(model, api, "GRPC").observe(1e6 * seconds)

    def runtime(self, model: str, seconds: float) -> None:
        """Records one run of a graph."""
        self._runtime.labels(model, "Predict", "TF2").observe(1e6 * seconds)


class MetricsServer:
    """`/metrics` over HTTP, by prometheus-client's own server.

    Args:
        metrics: What is shown.
        host: Address to listen on.
        port: 0 takes a free one.

    Raises:
        InputError: The port cannot be listened on.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise InputError(f"{host}:{port}: cannot be listened on ({error.strerror})") from None
        self.port: int = self._server.server_port

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
