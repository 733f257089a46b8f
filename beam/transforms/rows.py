"""Lists from logs of one row an item: by request id, or by session where the log has none.

A row is `{"user_id", "time", "item_id", "initial_score"}` with optional `request_id`, `position`, `split`,
`feedback`, `features` and `context`. Rows of one request id make one list. Rows without one are put in the
order of time for each user, and a pause of more than `session_gap_seconds` starts a new list, named after its
user and its first moment. A list's candidates stand by `initial_score`, the highest first; its time is the
earliest row's, its context and split the first row's.

`position` is the slot in which a row was shown. Where some rows of a list have one, the others were
not shown.

In a session an item shown again is the same candidate: its best score, its best place, and the largest value
of each feedback. A session may have several pages, each with its slot 0, so its slots are numbered anew:
by position, then by time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import DoOutputsTuple

from psad_tf.beam.dead_letters import DEAD, CountingDoFn
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import ImpressionCheck, to_json
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.encode_record import sortable
from psad_tf.data.records import IMPRESSIONS, RecordError
from psad_tf.features import FeatureDeclaration

ROWS = "rows"
# More rows than this of one list are not held in memory.
MAX_ROWS = 20_000
_REQUEST, _USER = b"r", b"u"

Row = tuple[dict[str, Any], str]  # (data, source)


def keyed_row(data: dict[str, Any], source: str) -> tuple[bytes, bytes]:
    """A row by its request, or by its user where it has none; the value sorts by time and item."""
    request_id = data.get("request_id")
    owner = _USER + data["user_id"].encode() if request_id is None else _REQUEST + request_id.encode()
    moment = data["time"].to_bytes(8, "big")
    return owner, moment + sortable(data["item_id"]) + to_json([data, source])


class AssembleRows(beam.PTransform):
    """Keyed rows -> travelling impressions by user, and dead letters.

    Args:
        declaration: The features.
        options: The job's options.
    """

    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__()
        self._options = options
        self._assemble = _AssembleRows(declaration, options)

    def expand(self, rows: beam.PCollection) -> DoOutputsTuple:
        return (
            rows
            | "By request or user" >> beam.GroupByKey()
            | "Sort by time" >> SortValues(self._options.buffer_bytes)
            | "Assemble"
            >> beam.ParDo(self._assemble)
            .with_output_types(tuple[bytes, bytes], **{DEAD: bytes})
            .with_outputs(DEAD, main="requests")
        )


class _AssembleRows(CountingDoFn):
    def __init__(self, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        self._declaration = declaration
        self._options = options

    def setup(self) -> None:
        self._check = ImpressionCheck(self._declaration, self._options)

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterable[Any]:
        owner, values = element
        gap = self._options.session_gap_seconds if owner[:1] == _USER else None
        for rows, beyond in lists_of_rows(values, gap):
            for data, source in beyond:
                detail = f"the list has more than {MAX_ROWS} rows"
                yield self.dead(ROWS, RecordError("too_many_candidates", detail), source, data)
            if not rows:
                continue
            self.counts["rows/kept"] += len(rows)
            self.counts["impressions/read"] += 1
            source = rows[0][1]
            impression = assembled(rows)
            try:
                yield self._check.take(impression, source, self.counts)
            except RecordError as error:
                yield self.dead(IMPRESSIONS, error, source, impression)


def lists_of_rows(values: Iterable[bytes], gap: int | None) -> Iterator[tuple[list[Row], list[Row]]]:
    """The rows of each list of one owner; of a list that is too long the others, one by one, as the second.

    Args:
        values: The owner's rows in the order of time.
        gap: A longer pause, in seconds, ends a list; None where only the owner does.
    """
    rows: list[Row] = []
    last_time = 0
    for value in values:
        time = int.from_bytes(value[:8], "big")
        if rows and gap is not None and time - last_time > gap:
            yield rows, []
            rows = []
        last_time = time
        row = tuple(orjson.loads(value[value.index(b"\0\0[", 8) + 2 :]))
        if len(rows) < MAX_ROWS:
            rows.append(row)
        else:
            yield [], [row]
    yield rows, []


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
