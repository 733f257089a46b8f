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

from psad_tf.beam.dead_letters import CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import ATTRIBUTES, PACKER, REQUEST, Request
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.encode_record import RecordEncoder
from psad_tf.data.records import USERS
from psad_tf.features import FeatureDeclaration

NEEDED = "needed"
# A shard's values: the attributes of items first, where they travel, and then its lists.
ITEM, LIST = b"\0", b"\1"
_MAX_NEEDED = 100_000


@beam.ptransform_fn
def JoinHistories(
    timeline: beam.PCollection, declaration: FeatureDeclaration, options: PreprocessOptions, needed: bool
) -> DoOutputsTuple:
    """A user's requests, interactions and rows, by user -> requests with all that is known, by shard.

    The value of the main output sorts by the digest of the request id, and among a request's copies the
    earliest first; `Joined` reads it. With `needed`, the items that each shard needs are the output `needed`:
    (item id, shard).
    """
    join = _JoinHistories(declaration, options)
    asked = {NEEDED: tuple[bytes, int]} if needed else {}
    return (
        timeline
        | "By user" >> beam.GroupByKey()
        | "Sort by time" >> SortValues(options.buffer_bytes)
        | "Join" >> join.giving("joined", tuple[int, bytes], needed, **asked)
    )


class _JoinHistories(CountingDoFn):
    def setup(self) -> None:
        self._past_item = RecordEncoder(self.declaration).past_item
        self._asked: set[tuple[bytes, int]] = set()

    def process(self, element: tuple[bytes, Iterable[bytes]], needed: bool = False) -> Iterable[Any]:
        history: deque[bytes] = deque(maxlen=self.declaration.history.length)
        user: bytes | None = None
        for value in element[1]:
            order = value[8:9]
            if order == REQUEST:
                request = Request.of(value)
                # Each shard holds a range of digests.
                shard = int.from_bytes(request.digest[:4], "big") * self.options.num_shards >> 32
                yield shard, joined(value, request.digest, user, history)
                if needed:
                    yield from self._need(request, history, shard)
            elif order != ATTRIBUTES:
                history.append(value[:8] + value[9:])
            elif user is None:
                user = value[9:]
                self.counts["users/kept"] += 1
            else:
                data, source = orjson.loads(value[9:])
                detail = f"user_id: {data['user_id']!r} has another row"
                yield self.dead(USERS, "duplicate_user_row", detail, source, data)

    def _need(self, request: Request, history: Iterable[bytes], shard: int) -> Iterable[TaggedOutput]:
        """The items of a list that were not asked for yet."""
        if len(self._asked) > _MAX_NEEDED:
            self._asked.clear()
        items = {candidate["item_id"] for candidate in request.record()[0]["candidates"]}
        items.update(map(self._past_item, history))
        new = {(item.encode(), shard) for item in items} - self._asked
        self._asked |= new
        return (TaggedOutput(NEEDED, each) for each in new)


class Joined(NamedTuple):
    """A request with its user and its history, as it travels to its shard.

    Attributes:
        request: The request.
        user: The user's row and its source as JSON, None where there is none.
        history: The last interactions before the request, oldest first.
    """

    request: Request
    user: bytes | None
    history: list[bytes]

    @classmethod
    def of(cls, value: bytes) -> Joined:
        """Reads what `joined` gave."""
        end = len(value) - 4 - int.from_bytes(value[-4:], "big")
        return cls(Request.of(value[17:end]), *marshal.loads(PACKER.unpack(value[end:-4])))


def joined(request: bytes, digest: bytes, user: bytes | None, history: Iterable[bytes]) -> bytes:
    """The bytes of a `Joined` of a travelling impression; they sort by digest, time and copy."""
    known = PACKER.pack(marshal.dumps((user, list(history))))
    return b"".join((LIST, digest, request, known, len(known).to_bytes(4, "big")))
