"""Counters and histograms in Prometheus' text format, under the names that TensorFlow Serving uses."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Callable, Iterable

_BOUNDS = tuple(10 * 1.8**power for power in range(33))  # microseconds, TensorFlow Serving's buckets

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """A registry; safe to use from several threads.

    Counts requests by model and status, and measures latency by model, API and entry point.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], int] = {}
        self._histograms: dict[tuple[str, Labels], _Histogram] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def request(self, model: str, status: str, api: str, entry_point: str, microseconds: float) -> None:
        """Records one request."""
        self.count("request_count", model_name=model, status=status)
        self.observe("request_latency", microseconds, model_name=model, API=api, entrypoint=entry_point)

    def count(self, name: str, **labels: str) -> None:
        """Adds 1 to `:tensorflow:serving:<name>`."""
        key = (name, tuple(labels.items()))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds a value to the histogram `:tensorflow:serving:<name>`."""
        key = (name, tuple(labels.items()))
        with self._lock:
            histogram = self._histograms.get(key)
            if histogram is None:
                histogram = self._histograms[key] = _Histogram()
            histogram.add(value)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Registers `:psad:serving:<name>`, read when the page is made."""
        self._gauges[name] = read

    def page(self) -> str:
        """The text page."""
        with self._lock:
            counts = sorted(self._counts.items())
            histograms = [(key, value.copy()) for key, value in sorted(self._histograms.items())]
        lines: list[str] = []
        for name, group in itertools.groupby(counts, key=lambda item: item[0][0]):
            lines.append(f"# TYPE :tensorflow:serving:{name} counter")
            lines += [f":tensorflow:serving:{name}{_braces(key[1])} {value}" for key, value in group]
        for name, series in itertools.groupby(histograms, key=lambda item: item[0][0]):
            lines.append(f"# TYPE :tensorflow:serving:{name} histogram")
            for key, histogram in series:
                lines += histogram.lines(f":tensorflow:serving:{name}", key[1])
        for name, read in sorted(self._gauges.items()):
            lines += [f"# TYPE :psad:serving:{name} gauge", f":psad:serving:{name} {read()}"]
        return "\n".join(lines) + "\n"


class _Histogram:
    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.buckets[bisect.bisect_left(_BOUNDS, value)] += 1
        self.total += value

    def copy(self) -> _Histogram:
        other = _Histogram()
        other.buckets, other.total = list(self.buckets), self.total
        return other

    def lines(self, name: str, labels: Labels) -> Iterable[str]:
        running = list(itertools.accumulate(self.buckets))
        for bound, count in zip([*map("{:.6g}".format, _BOUNDS), "+Inf"], running, strict=True):
            yield f"{name}_bucket{_braces((*labels, ('le', bound)))} {count}"
        yield f"{name}_sum{_braces(labels)} {self.total:.6g}"
        yield f"{name}_count{_braces(labels)} {running[-1]}"


def _braces(labels: Labels) -> str:
    escaped = (
        (key, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for key, value in labels
    )
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped) + "}"
