"""Checks of impressions, and the bytes in which they travel.

Only what a list is made of travels: the checked record as compressed JSON, behind a head of fixed length that
holds all that the next steps ask for, so that no step but the last decodes it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
import zstandard

from psad_tf.beam.options import PreprocessOptions
from psad_tf.data.records import RecordError, check_impression, cut_candidates
from psad_tf.features import FeatureDeclaration

# Order of a user's values of the same second: attributes, then requests, then what came of them.
ATTRIBUTES, REQUEST, INTERACTION = b"\0", b"\1", b"\2"
# time, order, digest of the request id, digest of the record, whether it names its split
_HEAD = struct.Struct(">Qc16s8s?")
_KEYS = ("request_id", "user_id", "time", "context", "candidates", "split", "feedback")


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


class ImpressionCheck:
    """Checks impressions against the schema, the declaration and the options.

    Args:
        declaration: The features; its `max_candidates` is the longest list.
        options: The job's options; `latest_time` is set.
    """

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._options = options
        self._max_candidates = declaration.max_candidates
        self._types = DeclaredTypes(declaration)

    def take(self, data: Any, source: str, counts: Counter[str]) -> tuple[bytes, bytes]:
        """One impression by its user.

        Args:
            data: The record.
            source: Where it was read.
            counts: Counts up lists that were cut.

        Raises:
            RecordError: It cannot be used.
        """
        check_impression(data, self._options.latest_time)
        if data.get("other_users"):
            raise RecordError(
                "several_users", f"request_id: {data['request_id']!r} has rows of several users"
            )
        candidates = data["candidates"]
        least = self._options.min_candidates
        if len(candidates) < least:
            raise RecordError("too_few_candidates", f"candidates: {len(candidates)}, at least {least}")
        too_long = len(candidates) > self._max_candidates
        if too_long and self._options.long_lists == "drop":
            raise RecordError(
                "too_many_candidates", f"{len(candidates)} candidates, at most {self._max_candidates}"
            )
        self._types.check_impression(data)
        data = {key: data[key] for key in _KEYS if data.get(key) is not None}
        if too_long:
            data["candidates"] = cut_candidates(candidates, self._max_candidates)
            counts["impressions/truncated"] += 1
        text = to_json(data)
        request_id = data["request_id"].encode()
        # The first half alone says where a list stands; both tell requests apart.
        digest = _digest(request_id) + hashlib.blake2b(request_id, digest_size=8, person=b"identity").digest()
        head = _HEAD.pack(data["time"], REQUEST, digest, _digest(text), "split" in data)
        return data["user_id"].encode(), head + pack(b"[%b,%b]" % (text, to_json(source)))


class DeclaredTypes:
    """The declared type of every feature, to check raw records against.

    A dense feature must be a number. A categorical one may be a string, a number or a list of strings.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        self._context = frozenset(feature.name for feature in declaration.context_dense)
        self._candidate = frozenset(feature.name for feature in declaration.candidate_dense)

    def check_impression(self, data: Mapping[str, Any]) -> None:
        """Raises `RecordError` where a value is not of its feature's type."""
        _check(data.get("context"), self._context, "context")
        if self._candidate:
            for candidate in data["candidates"]:
                features = candidate.get("features")
                if features and not self._candidate.isdisjoint(features):
                    _check(features, self._candidate, f"features of item {candidate['item_id']!r}")

    def check_row(self, data: Mapping[str, Any]) -> None:
        """The same for a row of a flat log."""
        _check(data.get("context"), self._context, "context")
        _check(data.get("features"), self._candidate, "features")

    def check_user(self, data: Mapping[str, Any]) -> None:
        """The same for a user's attributes."""
        _check(data, self._context, "user")

    def check_item(self, data: Mapping[str, Any]) -> None:
        """The same for an item's attributes."""
        _check(data, self._candidate, "item")


def _check(values: Mapping[str, Any] | None, dense: frozenset[str], where: str) -> None:
    for name in dense if values else ():
        value = values.get(name)  # type: ignore[union-attr]
        if isinstance(value, str | list):
            raise RecordError(
                "wrong_type", f"{where}: {name}: declared dense, but holds {str(value)[:40]!r}, not a number"
            )


def to_json(data: Any) -> bytes:
    """JSON of a checked record; what JSON does not know (a date in a column not declared) becomes text."""
    try:
        return orjson.dumps(data, default=str)
    except TypeError:  # whole numbers of more than 64 bits
        return json.dumps(data, default=str).encode()


def pack(data: bytes) -> bytes:
    """Compressed bytes."""
    return _zstandard.compress(data)


def unpack(data: bytes) -> bytes:
    """What `pack` was given."""
    return _zstandard.decompress(data)


class _Zstandard(threading.local):  # its objects are not to be shared by threads
    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstandard = _Zstandard()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
