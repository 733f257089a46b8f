"""Lists from logs of one row an item: by request id, or by session where the log has none.

A row is `{"user_id", "time", "item_id", "initial_score"}` with optional `request_id`, `position`, `split`,
`feedback`, `features` and `context`. Rows of one request id make one list. Rows without one are put in the
order of time for each user, and a pause of more than `session_gap_seconds` starts a new list, named after its
user and its first moment. A list's candidates stand by `initial_score`, the highest first; its time is the
earliest row's, its context and split the first row's.

`position` is the slot in which a row was shown. Where some rows of a list have one, the others were not
shown.

In a session an item shown again is the same candidate: its best score, its best place, and the largest value
of each feedback. A session may have several pages, each with its slot 0, so its slots are numbered anew:
by position, then by time.
"""

from __future__ import annotations

import marshal
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from psad_tf.beam.dead_letters import DeadLetters
from psad_tf.beam.messages import Handler, Message, Step, of_topic, report
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sorted_runs import merge_runs
from psad_tf.beam.transforms.check import ImpressionCheck
from psad_tf.data.records import IMPRESSIONS, RecordError
from psad_tf.features import FeatureDeclaration

ROWS = "rows"
# More rows than this of one list are not held in memory.
MOST_ROWS = 20_000

_LENGTH = struct.Struct(">H")
_TIME = struct.Struct(">Q")

Row = tuple[dict[str, Any], str]  # (data, source)


def row_key(data: dict[str, Any]) -> tuple[bytes, bytes]:
    """(what to partition a row by, what to sort it by): its request, or its user and time."""
    request_id = data.get("request_id")
    name = (request_id if request_id is not None else data["user_id"]).encode()
    owner = (b"r" if request_id is not None else b"u") + _LENGTH.pack(len(name)) + name
    return owner, owner + _TIME.pack(data["time"]) + data["item_id"].encode()


class AssembleRows(Step):
    """Runs of rows -> runs of impressions by request id.

    Args:
        folder: Where sorted runs are written.
        declaration: The features.
        options: The job's options.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__(_AssembleRows(folder, declaration, options))


class _AssembleRows(Handler):
    topics = (ROWS,)

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._folder = folder
        self._declaration = declaration
        self._options = options

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        dead = DeadLetters(self._folder, self._options.num_partitions)
        check = ImpressionCheck(self._folder, self._declaration, self._options)
        counts: Counter[str] = Counter()
        for rows in grouped(of_topic(received, ROWS), self._options.session_gap_seconds, dead):
            counts["rows/kept"] += len(rows)
            counts["impressions/read"] += 1
            source = rows[0][1]
            impression = assembled(rows)
            try:
                check.take(impression, source)
            except RecordError as error:
                dead.add(IMPRESSIONS, error, source, impression)
        yield from check.close()
        yield from dead.close()
        yield report("counts", dict(counts))


def grouped(runs: list[Any], gap_seconds: int, dead: DeadLetters) -> Iterator[list[Row]]:
    """The rows of each list, in time order.

    Args:
        runs: Runs of rows.
        gap_seconds: A longer pause ends a session.
        dead: Takes the rows of a list beyond `MOST_ROWS`.
    """
    rows: list[Row] = []
    owner = b""
    last_time = 0
    for key, value in merge_runs(runs):
        end = 3 + int.from_bytes(key[1:3], "big")
        row = marshal.loads(value)
        time = row[0]["time"]
        pause = key[:1] == b"u" and time - last_time > gap_seconds
        if rows and (key[:end] != owner or pause):
            yield rows
            rows = []
        owner, last_time = key[:end], time
        if len(rows) < MOST_ROWS:
            rows.append(row)
        else:
            detail = f"the list has more than {MOST_ROWS} rows"
            data, source = row
            dead.add(ROWS, RecordError("too_many_candidates", detail), source, data)
    if rows:
        yield rows


def assembled(rows: list[Row]) -> dict[str, Any]:
    """The impression of one list's rows, which come in time order."""
    first = rows[0][0]
    request_id = first.get("request_id")
    in_order = sorted((data for data, _ in rows), key=_rank)
    slots = _session_slots(rows) if request_id is None else {}
    candidates: dict[Any, dict[str, Any]] = {}
    for number, data in enumerate(in_order):
        candidate = {
            "item_id": data["item_id"],
            "initial_score": data["initial_score"],
            "feedback": data.get("feedback") or {},
            "features": data.get("features") or {},
        }
        slot = slots.get(data["item_id"]) if request_id is None else data.get("position")
        if slot is not None:
            candidate["position"] = slot
        # A request shows an item once: a second row is kept, for the check to refuse.
        key = data["item_id"] if request_id is None else number
        if key in candidates:
            _merge_feedback(candidates[key]["feedback"], candidate["feedback"])
        else:
            candidates[key] = candidate
    impression = {
        "request_id": request_id if request_id is not None else f"{first['user_id']}@{first['time']}",
        "user_id": first["user_id"],
        "time": first["time"],
        "context": in_order[0].get("context") or {},
        "candidates": list(candidates.values()),
    }
    if in_order[0].get("split") is not None:
        impression["split"] = in_order[0]["split"]
    users = {data["user_id"] for data, _ in rows}
    if len(users) > 1:
        impression["other_users"] = sorted(users - {first["user_id"]})
    return impression


def _rank(data: dict[str, Any]) -> tuple[float, float, int, str]:
    position = data.get("position")
    return (
        -data["initial_score"],
        float("inf") if position is None else position,
        data["time"],
        data["item_id"],
    )


def _session_slots(rows: list[Row]) -> dict[str, int]:
    """The slot of each item of a session that was shown."""
    shown = [data for data, _ in rows if data.get("position") is not None]
    shown.sort(key=lambda data: (data["position"], data["time"], data["item_id"]))
    return {item_id: slot for slot, item_id in enumerate(dict.fromkeys(data["item_id"] for data in shown))}


def _merge_feedback(feedback: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in other.items():
        known = feedback.get(name)
        if known is None or (value is not None and value > known):
            feedback[name] = value
