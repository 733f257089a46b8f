import json
import marshal

import pytest

import psad_tf.beam.transforms.read as read_module
from psad_tf.beam.dead_letters import DEAD
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sorted_runs import merge_runs
from psad_tf.beam.sources import RawInputs, find_ranges
from psad_tf.beam.transforms.check import REQUESTS
from psad_tf.beam.transforms.read import ITEM_ROWS, STOP, TIMELINE, ReadRecords, split_timeline_key
from psad_tf.beam.transforms.rows import ROWS, AssembleRows
from tests.beam import logs
from tests.beam.logs import DECLARATION

OPTIONS = PreprocessOptions(num_partitions=2, latest_time=logs.START * 2)


def _read(folder, **files):
    for kind, lines in files.items():
        text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        (folder / f"{kind}.jsonl").write_text(text)
    inputs = RawInputs(**{"impressions": (), **{kind: (f"{folder}/{kind}.jsonl",) for kind in files}})
    (folder / "work").mkdir(exist_ok=True)
    return logs.through(ReadRecords(str(folder / "work"), DECLARATION, OPTIONS), find_ranges(inputs), folder)


def test_good_records_go_where_they_are_joined_and_bad_ones_to_the_dead_letters(tmp_path):
    found = _read(
        tmp_path,
        impressions=[logs.impression(0, 1, logs.START, [1, 2]), {"request_id": "bad"}],
        interactions=[{"user_id": "user-1", "item_id": "item-1", "time": 7}, "not JSON\n"],
        users=[{"user_id": "user-1", "age": 3}],
        items=[{"item_id": "item-1"}, {"item_id": "item-1", "year": "old"}],
    )
    (request,) = merge_runs(logs.payloads(found, REQUESTS))
    assert marshal.loads(request[1]) == (logs.impression(0, 1, logs.START, [1, 2]), "impressions.jsonl:0")
    timeline = [split_timeline_key(key) for key, _ in merge_runs(logs.payloads(found, TIMELINE))]
    assert timeline == [(b"user-1", 0, read_module.ATTRIBUTES), (b"user-1", 7, read_module.INTERACTION)]
    assert [key for key, _ in merge_runs(logs.payloads(found, ITEM_ROWS))] == [b"item-1"]
    letters = [json.loads(line) for _, line in merge_runs(logs.payloads(found, DEAD))]
    assert [(each["kind"], each["reason"], each["record"]) for each in letters] == [
        ("impressions", "missing_field", {"request_id": "bad"}),
        ("interactions", "not_json", "not JSON"),
        ("items", "wrong_type", {"item_id": "item-1", "year": "old"}),
    ]
    read = {
        kind: logs.counts(found)[f"{kind}/read"] for kind in ("impressions", "interactions", "users", "items")
    }
    assert read == {"impressions": 2, "interactions": 2, "users": 1, "items": 2}


def test_rows_of_a_request_become_one_impression(tmp_path):
    row = {"request_id": "r", "user_id": "user-1", "time": logs.START, "initial_score": 0.5}
    rows = [{**row, "item_id": f"item-{n}", "initial_score": n, "position": n} for n in range(3)]
    sent = _read(tmp_path, impressions=rows)
    assert sum(run.records for run in logs.payloads(sent, ROWS)) == 3
    found = logs.through(AssembleRows(str(tmp_path / "work"), DECLARATION, OPTIONS), sent, tmp_path)
    (request,) = merge_runs(logs.payloads(found, REQUESTS))
    impression, _ = marshal.loads(request[1])
    assert [each["item_id"] for each in impression["candidates"]] == ["item-2", "item-1", "item-0"]
    assert [each["position"] for each in impression["candidates"]] == [2, 1, 0]
    assert logs.counts(found)["rows/kept"] == 3


def test_a_damaged_file_is_told_and_stops_the_next_steps_instead_of_failing_the_worker(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(b"")
    (each,) = find_ranges(RawInputs((f"{tmp_path}/cut.jsonl.gz",)))
    found = logs.through(ReadRecords(str(tmp_path), DECLARATION, OPTIONS), [each], tmp_path)
    ((kind, (mistake,)),) = logs.payloads(found, "report")
    assert kind == "mistakes"
    assert mistake.startswith(f"{tmp_path}/cut.jsonl.gz: the file is cut short")
    assert sorted(partition for topic, partition, _ in found if topic == STOP) == [0, 1]


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
        _read(tmp_path, interactions=rows)
