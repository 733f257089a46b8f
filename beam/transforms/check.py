"""Checks of impressions, and the bytes in which they travel.

Only what a list is made of travels: the checked record as compressed JSON, behind a head of fixed length that
holds all that the next steps ask for, so that no step but the last decodes it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from typing import Any, NamedTuple

import orjson
import zstandard

from psad_tf.beam.options import PreprocessOptions
from psad_tf.data.records import RecordError, check_impression, cut_candidates
from psad_tf.features import FeatureDeclaration

# Order of a user's values of the same second: attributes, then requests, then what came of them.
ATTRIBUTES, REQUEST, INTERACTION = b"\0", b"\1", b"\2"
_KEYS = ("request_id", "user_id", "time", "context", "candidates", "split", "feedback")


class _Packer(threading.local):  # its objects are not to be shared by threads
    def __init__(self) -> None:
        self.pack = zstandard.ZstdCompressor(level=1).compress
        self.unpack = zstandard.ZstdDecompressor().decompress


PACKER = _Packer()


class Request(NamedTuple):
    """The head of a travelling impression and what is behind it.

    Attributes:
        time: Seconds since 1970 UTC, as 8 bytes.
        digest: Of the request id, 16 bytes. Lists stand in the order of these.
        copy: Of the record, 8 bytes: of equally early copies of a request the first of these is kept.
        own_split: Whether the record names its split.
        packed: The record and its source.
    """

    time: bytes
    digest: bytes
    copy: bytes
    own_split: bool
    packed: bytes

    @classmethod
    def of(cls, value: bytes) -> Request:
        """Reads a travelling impression."""
        return cls(value[:8], value[9:25], value[25:33], value[33] != 0, value[34:])

    def record(self) -> tuple[dict[str, Any], str]:
        """The record and its source."""
        return tuple(orjson.loads(PACKER.unpack(self.packed)))


class ImpressionCheck:
    """Checks impressions against the schema, the declaration and the options."""

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._options = options
        self._max_candidates = declaration.max_candidates
        self._widths = declaration.raw_widths

    def take(self, data: Any, source: str, counts: Counter[str]) -> tuple[bytes, bytes]:
        """One impression by its user, as it travels.

        Args:
            data: The record.
            source: Where it was read.
            counts: Counts up lists that were cut.

        Raises:
            RecordError: It cannot be used.
        """
        check_impression(data, self._options.latest_time, self._widths)
        if data.get("other_users"):
            detail = f"request_id: {data['request_id']!r} has rows of several users"
            raise RecordError("several_users", detail)
        count, max_candidates = len(data["candidates"]), self._max_candidates
        if count < self._options.min_candidates:
            detail = f"candidates: {count}, at least {self._options.min_candidates}"
            raise RecordError("too_few_candidates", detail)
        too_long = count > max_candidates
        if too_long and self._options.long_lists == "drop":
            raise RecordError("too_many_candidates", f"{count} candidates, at most {max_candidates}")
        data = {key: data[key] for key in _KEYS if data.get(key) is not None}
        if too_long:
            data["candidates"] = cut_candidates(data["candidates"], max_candidates)
            counts["impressions/truncated"] += 1
        text, request_id = to_json(data), data["request_id"].encode()
        # The first half alone says where a list stands; both tell requests apart.
        digest = _digest(request_id) + _digest(request_id, b"identity")
        head = data["time"].to_bytes(8, "big") + REQUEST + digest + _digest(text) + bytes(["split" in data])
        return data["user_id"].encode(), head + PACKER.pack(b"[%b,%b]" % (text, to_json(source)))


def to_json(data: Any) -> bytes:
    """JSON of a checked record; what JSON does not know (a date in a column not declared) becomes text."""
    try:
        return orjson.dumps(data, default=str)
    except TypeError:  # whole numbers of more than 64 bits
        return json.dumps(data, default=str).encode()


def _digest(data: bytes, person: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=8, person=person).digest()
