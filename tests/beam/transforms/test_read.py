import json

import pytest

import psad_tf.beam.transforms.read as read_module
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sources import RawInputs, find_ranges
from psad_tf.beam.transforms.check import Request
from psad_tf.beam.transforms.read import ITEM_ROWS, MISTAKES, REQUESTS, TIMELINE, ReadRecords
from psad_tf.beam.transforms.rows import ROWS, AssembleRows
from tests.beam import logs
from tests.beam.logs import DECLARATION

OPTIONS = PreprocessOptions(latest_time=logs.START * 2, max_dropped=1.0)


def _read(folder, kind, lines):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / f"{kind}.jsonl").write_text(text)
    ranges = find_ranges(RawInputs(**{"impressions": (), kind: (f"{folder}/{kind}.jsonl",)}))
    return logs.outputs(ReadRecords(ranges, DECLARATION, OPTIONS), folder)


def _impression(value):
    return list(Request.of(value).record())


@pytest.mark.parametrize(
    ("kind", "good", "bad", "reason"),
    [
        ("interactions", {"user_id": "user-1", "item_id": "item-1", "time": 7}, "not JSON\n", "not_json"),
        ("users", {"user_id": "user-1", "age": 3}, {"user_id": "user-1", "age": "old"}, "wrong_type"),
        ("items", {"item_id": "user-1"}, {"item_id": "item-1", "year": "old"}, "wrong_type"),
        ("impressions", logs.impression(0, 1, logs.START, [1, 2]), {"request_id": "bad"}, "missing_field"),
    ],
)
def test_good_records_go_on_by_their_key_and_bad_ones_to_the_dead_letters(tmp_path, kind, good, bad, reason):
    found = _read(tmp_path, kind, [good, bad])
    output = {"impressions": REQUESTS, "items": ITEM_ROWS}.get(kind, TIMELINE)
    ((key, _),) = found.elements[output]
    assert key == b"user-1"
    (letter,) = found.letters
    assert (letter["kind"], letter["reason"]) == (kind, reason)
    assert letter["record"] == (bad.rstrip("\n") if isinstance(bad, str) else bad)
    assert found.counts[f"{kind}/read"] == 2


def test_an_impression_travels_as_it_was_checked(tmp_path):
    record = logs.impression(0, 1, logs.START, [1, 2])
    found = _read(tmp_path, "impressions", [{**record, "junk": [1], "split": None}])
    ((_, value),) = found.elements[REQUESTS]
    assert _impression(value) == [record, "impressions.jsonl:0"]
    request = Request.of(value)
    assert (int.from_bytes(request.time, "big"), request.own_split) == (logs.START, False)


def test_rows_of_a_request_become_one_impression(tmp_path):
    row = {"request_id": "r", "user_id": "user-1", "time": logs.START}
    rows = [{**row, "item_id": f"item-{n}", "initial_score": n, "position": n} for n in range(3)]
    sent = _read(tmp_path, "impressions", rows).elements[ROWS]
    assert len(sent) == 3
    found = logs.outputs(AssembleRows(DECLARATION, OPTIONS), tmp_path, sent)
    ((user, value),) = found.elements[REQUESTS]
    assert user == b"user-1"
    candidates = _impression(value)[0]["candidates"]
    assert [(each["item_id"], each["position"]) for each in candidates] == [
        ("item-2", 2), ("item-1", 1), ("item-0", 0),
    ]  # fmt: skip
    assert found.counts["rows/kept"] == 3


def test_a_damaged_file_is_told_instead_of_failing_the_worker(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(b"")
    ranges = find_ranges(RawInputs((f"{tmp_path}/cut.jsonl.gz",)))
    found = logs.outputs(ReadRecords(ranges, DECLARATION, OPTIONS), tmp_path)
    (mistake,) = found.elements[MISTAKES]
    assert mistake.startswith(f"{tmp_path}/cut.jsonl.gz: the file is cut short")


def test_a_workers_exception_names_the_file_and_the_place_of_the_record(tmp_path, monkeypatch):
    def defect(data, latest_time):
        if data["item_id"] == "item-13":
            raise ZeroDivisionError("a defect of the job")

    monkeypatch.setattr(read_module, "check_interaction", defect)
    rows = [{"user_id": "user-1", "item_id": f"item-{n}", "time": 7} for n in (12, 13)]
    place = len(json.dumps(rows[0])) + 1
    with pytest.raises(
        RuntimeError, match=rf"interactions\.jsonl:{place}: this record of interactions made an"
    ):
        _read(tmp_path, "interactions", rows)
