"""Joins every request with its user and the user's history as of the request.

A user's values come sorted by time, attributes first, and at the same second requests before interactions. So
one pass suffices, with the last H interactions in memory, however many the user has; and an interaction at or
after a request's time cannot have been read when the request is passed on: nothing leaks from the future.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
import orjson
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from psad_tf.beam.dead_letters import DEAD, CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import ATTRIBUTES, REQUEST, Request, pack, unpack
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.encode_record import RecordEncoder
from psad_tf.data.records import USERS, RecordError
from psad_tf.features import FeatureDeclaration

NEEDED = "needed"
_MAX_NEEDED = 100_000


class JoinHistories(beam.PTransform):
    """A user's requests, interactions and rows, by user -> requests with all that is known, by shard.

    The value of the main output sorts by the digest of the request id, and among a request's copies the
    earliest first; `Joined` reads it. With `needed`, the items that each shard needs are the output `needed`:
    (item id, shard).

    Args:
        declaration: The features.
        options: The job's options.
        needed: Whether to say which items are needed.
    """

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions, needed: bool) -> None:
        super().__init__()
        self._buffer_bytes = options.buffer_bytes
        self._join = _JoinHistories(declaration, options, needed)

    def expand(self, timeline: beam.PCollection) -> DoOutputsTuple:
        return (
            timeline
            | "By user" >> beam.GroupByKey()
            | "Sort by time" >> SortValues(self._buffer_bytes)
            | "Join"
            >> beam.ParDo(self._join)
            .with_output_types(tuple[int, bytes], **{DEAD: bytes, NEEDED: tuple[bytes, bytes]})
            .with_outputs(DEAD, NEEDED, main="joined")
        )


class _JoinHistories(CountingDoFn):
    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions, needed: bool) -> None:
        self._declaration = declaration
        self._num_shards = options.num_shards
        self._needed: set[tuple[bytes, bytes]] | None = set() if needed else None

    def setup(self) -> None:
        self._past_item = RecordEncoder(self._declaration).past_item

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterable[Any]:
        history: deque[bytes] = deque(maxlen=self._declaration.history.length)
        user: bytes | None = None
        for value in element[1]:
            order = value[8:9]
            if order == REQUEST:
                request = Request.of(value)
                shard = shard_of(request.digest, self._num_shards)
                yield shard, Joined(request, user, list(history)).value()
                if self._needed is not None:
                    yield from self._need(request, history, shard)
            elif order == ATTRIBUTES:
                if user is None:
                    user = value[9:]
                    self.counts["users/kept"] += 1
                else:
                    data, source = orjson.loads(value[9:])
                    detail = f"user_id: {data['user_id']!r} has another row"
                    yield self.dead(USERS, RecordError("duplicate_user_row", detail), source, data)
            else:
                history.append(value[:8] + value[9:])

    def _need(self, request: Request, history: Iterable[bytes], shard: int) -> Iterable[TaggedOutput]:
        """The items of a list that were not asked for yet."""
        data, _ = orjson.loads(unpack(request.packed))
        items = [candidate["item_id"].encode() for candidate in data["candidates"]]
        items += [self._past_item(each).encode() for each in history]
        assert self._needed is not None
        if len(self._needed) > _MAX_NEEDED:
            self._needed.clear()
        asker = shard.to_bytes(4, "big")
        for item in set(items):
            if (item, asker) not in self._needed:
                self._needed.add((item, asker))
                yield TaggedOutput(NEEDED, (item, asker))


class Joined(NamedTuple):
    """A request with its user and its history, as it travels to its shard.

    Attributes:
        request: The request.
        user: The user's row as JSON, None where there is none.
        history: The last interactions before the request, oldest first.
    """

    request: Request
    user: bytes | None
    history: list[bytes]

    def value(self) -> bytes:
        """The bytes that travel."""
        time, digest, copy, own_split, packed = self.request
        context = pack(marshal.dumps((self.user, self.history)))
        size = len(context).to_bytes(4, "big")
        return b"".join((LIST, digest, time, copy, bytes([own_split]), size, context, packed))

    @classmethod
    def of(cls, value: bytes) -> Joined:
        """Reads what `value` gave."""
        end = 38 + int.from_bytes(value[34:38], "big")
        request = Request(value[17:25], value[1:17], value[25:33], value[33] != 0, value[end:])
        return cls(request, *marshal.loads(unpack(value[38:end])))


# A shard's values: the attributes of items first, where they travel, and then its lists.
ITEM, LIST = b"\0", b"\1"


def shard_of(digest: bytes, num_shards: int) -> int:
    """The shard of a request: each holds a range of digests."""
    return int.from_bytes(digest[:4], "big") * num_shards >> 32
