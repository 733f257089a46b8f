"""Lists from logs of one row an item: by request id, or by session where the log has none.

`check_row` says what a row is. Rows of one request id make one list. Rows without one are put in the order of
time for each user, and a pause of more than `session_gap_seconds` starts a new list, named after its user and
its first moment. A list's candidates stand by `initial_score`, the highest first; its time is the earliest
row's, its context and split the first candidate's.

In a session an item shown again is the same candidate: its best score, its best place, and the largest value
of each feedback. A session may have several pages, each with its slot 0, so its slots are numbered anew: by
position, then by time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import DoOutputsTuple

from psad_tf.beam.dead_letters import CountingDoFn
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


@beam.ptransform_fn
def AssembleRows(
    rows: beam.PCollection, declaration: FeatureDeclaration, options: PreprocessOptions
) -> DoOutputsTuple:
    """Rows by `keyed_row` -> travelling impressions by user, and dead letters."""
    return (
        rows
        | "By request or user" >> beam.GroupByKey()
        | "Sort by time" >> SortValues(options.buffer_bytes)
        | "Assemble" >> _AssembleRows(declaration, options).giving("requests", tuple[bytes, bytes])
    )


class _AssembleRows(CountingDoFn):
    def setup(self) -> None:
        self._check = ImpressionCheck(self.declaration, self.options)

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterable[Any]:
        owner, values = element
        gap = self.options.session_gap_seconds if owner[:1] == _USER else None
        for rows, beyond in lists_of_rows(values, gap):
            if beyond is not None:
                detail = f"the list has more than {MAX_ROWS} rows"
                yield self.dead(ROWS, "too_many_candidates", detail, beyond[1], beyond[0])
                continue
            self.counts["rows/kept"] += len(rows)
            self.counts["impressions/read"] += 1
            source, impression = rows[0][1], assembled([data for data, _ in rows])
            try:
                yield self._check.take(impression, source, self.counts)
            except RecordError as error:
                yield self.dead(IMPRESSIONS, error.reason, error.detail, source, impression)


def lists_of_rows(values: Iterable[bytes], gap: int | None) -> Iterator[tuple[list[Row], Row | None]]:
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
            yield rows, None
            rows = []
        last_time = time
        data, source = orjson.loads(value[value.index(b"\0\0[", 8) + 2 :])
        if len(rows) < MAX_ROWS:
            rows.append((data, source))
        else:
            yield [], (data, source)
    yield rows, None


def assembled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The impression of one list's rows, which come in time order."""
    first, request_id = rows[0], rows[0].get("request_id")
    in_order = sorted(rows, key=_rank)
    slots: dict[str, int] = {}
    if request_id is None:  # a session numbers its slots anew
        shown = [row for row in rows if row.get("position") is not None]
        shown.sort(key=lambda row: (row["position"], row["time"], row["item_id"]))
        slots = {item: slot for slot, item in enumerate(dict.fromkeys(row["item_id"] for row in shown))}
    candidates: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(in_order):
        item_id, feedback = row["item_id"], row.get("feedback") or {}
        # A request shows an item once: a second row is kept, for the check to refuse.
        key = item_id if request_id is None else number
        if key in candidates:
            known = candidates[key]["feedback"]
            for name, value in feedback.items():
                if known.get(name) is None or (value is not None and value > known[name]):
                    known[name] = value
            continue
        candidates[key] = {
            "item_id": item_id,
            "initial_score": row["initial_score"],
            "feedback": feedback,
            "features": row.get("features") or {},
            "position": slots.get(item_id) if request_id is None else row.get("position"),
        }
        if candidates[key]["position"] is None:
            del candidates[key]["position"]
    best = in_order[0]
    impression = {
        "request_id": f"{first['user_id']}@{first['time']}" if request_id is None else request_id,
        "user_id": first["user_id"],
        "time": first["time"],
        "context": best.get("context") or {},
        "candidates": list(candidates.values()),
        "split": best.get("split"),
        "other_users": sorted({row["user_id"] for row in rows} - {first["user_id"]}),
    }
    return {key: value for key, value in impression.items() if value or key not in ("split", "other_users")}


def _rank(row: dict[str, Any]) -> tuple[float, float, int, str]:
    position = row.get("position")
    slot = float("inf") if position is None else position
    return -row["initial_score"], slot, row["time"], row["item_id"]
