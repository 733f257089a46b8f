"""Checks an impression and sends it to where duplicates are found."""

from __future__ import annotations

import marshal
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

from psad_tf.beam.messages import Message, messages, partition_of, report
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sorted_runs import RunWriter
from psad_tf.beam.transforms.declared_types import DeclaredTypes
from psad_tf.data.records import RecordError, check_impression, cut_candidates
from psad_tf.features import FeatureDeclaration

REQUESTS = "requests"
_LENGTH = struct.Struct(">H")


class ImpressionCheck:
    """Takes impressions, refuses the bad ones and writes runs of the good ones by request id.

    Args:
        folder: Where sorted runs are written.
        declaration: The features; its `max_candidates` is the longest list.
        options: The job's options; `latest_time` is set.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._options = options
        self._max_candidates = declaration.max_candidates
        self._types = DeclaredTypes(declaration)
        self._runs = RunWriter(folder, REQUESTS, options.buffer_bytes)
        self._counts: Counter[str] = Counter()

    def take(self, data: Any, source: str) -> None:
        """Takes one impression; `source` says where it was read.

        Raises:
            RecordError: It cannot be used.
        """
        check_impression(data, self._options.latest_time)
        if data.get("other_users"):
            raise RecordError(
                "several_users", f"request_id: {data['request_id']!r} has rows of several users"
            )
        candidates = data["candidates"]
        if len(candidates) < self._options.min_candidates:
            raise RecordError(
                "too_few_candidates",
                f"candidates: {len(candidates)}, at least {self._options.min_candidates}",
            )
        too_long = len(candidates) > self._max_candidates
        if too_long and self._options.long_lists == "drop":
            raise RecordError(
                "too_many_candidates", f"{len(candidates)} candidates, at most {self._max_candidates}"
            )
        self._types.check_impression(data)
        if too_long:
            data = {**data, "candidates": cut_candidates(candidates, self._max_candidates)}
            self._counts["impressions/truncated"] += 1
        request_id = data["request_id"].encode()
        self._runs.add(
            partition_of(request_id, self._options.num_partitions),
            request_key(request_id, data["time"]),
            marshal.dumps((data, source), 2),
        )

    def close(self) -> Iterable[Message]:
        """The runs and the counts."""
        yield from messages(REQUESTS, self._runs.close())
        if self._counts:
            yield report("counts", dict(self._counts))


def request_key(request_id: bytes, time: int) -> bytes:
    """Sorts a request's copies together, the earliest first."""
    return _LENGTH.pack(len(request_id)) + request_id + time.to_bytes(8, "big")
