import json

from psad_tf.beam.dead_letters import DeadLetters, WriteDeadLetters
from psad_tf.beam.pipeline import Collect
from psad_tf.beam.writers import PARTS
from psad_tf.data.records import RecordError
from tests.beam import logs


def _written(folder, letters):
    """The dead letters of several workers, as they are written."""
    (folder / PARTS).mkdir()
    sent = []
    for letter in letters:
        dead = DeadLetters(str(folder), 1)
        dead.add(*letter)
        sent += dead.close()
    found = logs.through(WriteDeadLetters(str(folder), 1), sent, folder)
    ((_, info),) = [report for report in logs.payloads(found, "report") if report[0] == "file"]
    assert info["name"] == "dead_letters/part-00000-of-00001.jsonl"
    return (folder / PARTS / info["part"]).read_bytes().splitlines(), logs.counts(found)


def test_letters_stand_by_kind_reason_and_source_with_the_raw_record(tmp_path):
    lines, counts = _written(
        tmp_path,
        [
            (
                "users",
                RecordError("wrong_type", "age: is text"),
                "users.jsonl:9",
                {"user_id": "é", "age": "x"},
            ),
            ("items", RecordError("not_json", "at 3"), "items.jsonl:5", '{"a'),
            ("items", RecordError("not_json", "at 1"), "items.jsonl:0", "{"),
        ],
    )
    assert [json.loads(line) for line in lines] == [
        {"reason": "not_json", "detail": "at 1", "kind": "items", "source": "items.jsonl:0", "record": "{"},
        {"reason": "not_json", "detail": "at 3", "kind": "items", "source": "items.jsonl:5", "record": '{"a'},
        {"reason": "wrong_type", "detail": "age: is text", "kind": "users", "source": "users.jsonl:9",
         "record": {"user_id": "é", "age": "x"}},
    ]  # fmt: skip
    assert counts == {"items/dropped/not_json": 2, "users/dropped/wrong_type": 1}


def test_what_json_cannot_hold_is_written_as_text(tmp_path):
    record = {"nan": float("nan"), "deep": [{"infinite": float("-inf")}], "bytes": b"\xff", "half": "\ud800"}
    (line,), _ = _written(tmp_path, [("users", RecordError("not_finite", "nan"), "u:0", record)])
    assert json.loads(line, parse_constant=lambda name: 1 / 0)["record"] == {
        "nan": "nan", "deep": [{"infinite": "-inf"}], "bytes": "b'\\xff'", "half": "\ud800",
    }  # fmt: skip


def test_reports_of_all_workers_are_collected_in_one_file(tmp_path):
    sent = [("report", 0, ("counts", {"a": number})) for number in range(5)]
    assert logs.through(Collect(str(tmp_path)), sent, tmp_path) == []
    collected = json.loads((tmp_path / "reports.json").read_text())
    assert sorted(collected, key=str) == [["counts", {"a": number}] for number in range(5)]
