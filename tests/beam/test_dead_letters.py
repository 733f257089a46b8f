import json

from psad_tf.beam.dead_letters import WriteDeadLetters, dead_letter
from psad_tf.beam.output_file import PARTS
from psad_tf.data.records import RecordError
from tests.beam import logs


def _written(folder, letters):
    (folder / PARTS).mkdir()
    sent = [dead_letter(*letter) for letter in letters]
    (info,) = logs.outputs(WriteDeadLetters(str(folder), 1), folder, sent).elements[""]
    assert info["name"] == "dead_letters/part-00000-of-00001.jsonl"
    return (folder / PARTS / info["part"]).read_bytes().splitlines()


def test_letters_stand_by_kind_reason_and_source_with_the_raw_record(tmp_path):
    lines = _written(
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


def test_what_json_cannot_hold_is_written_as_text(tmp_path):
    record = {"nan": float("nan"), "deep": [{"infinite": float("-inf")}], "bytes": b"\xff", "half": "\ud800"}
    (line,) = _written(tmp_path, [("users", RecordError("not_finite", "nan"), "u:0", record)])
    assert json.loads(line, parse_constant=lambda name: 1 / 0)["record"] == {
        "nan": "nan", "deep": [{"infinite": "-inf"}], "bytes": "b'\\xff'", "half": "\ud800",
    }  # fmt: skip
