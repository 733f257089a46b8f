"""Logs as they are exported: read where their meaning is plain, refused with an example where not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.sources import RawInputs, find_ranges, read_range, unread_files
from psad_tf.cli.main import main
from psad_tf.cli.preprocess import ended_by_signals
from psad_tf.data.common_forms import CommonForms
from psad_tf.data.records import RecordError
from psad_tf.errors import InputError
from psad_tf.features import load_json
from tests.beam import logs
from tests.beam.logs import DECLARATION

OPTIONS = PreprocessOptions(num_shards=1, latest_time=logs.START + 10**6)


def exported(record: dict) -> dict:
    """A record as many systems export it: numbers as ids, ISO times, booleans, attributes of any type."""
    changed = json.loads(json.dumps(record).replace('"item-', '"').replace('"user-', '"'))
    for each in [changed, *changed.get("candidates", [])]:
        for key in ("user_id", "item_id"):
            if key in each:
                each[key] = int(each[key])
    if "time" in changed:
        changed["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(changed["time"]))
    changed["trace"] = {"of": [1, None, {"any": True}], "text": "two\nlines"}
    return changed


def renamed(record: dict) -> dict:
    """The raw form of the same: the ids are the numbers' text."""
    return json.loads(json.dumps(record).replace('"item-', '"').replace('"user-', '"'))


@pytest.mark.slow
def test_common_exports_make_the_lists_that_the_raw_form_makes(tmp_path):
    data = logs.records()
    ours = {kind: [renamed(each) for each in records] for kind, records in data.items()}
    theirs = {kind: [exported(each) for each in records] for kind, records in data.items()}
    for folder, records in (("ours", ours), ("theirs", theirs)):
        raw = logs.write_folder(tmp_path / folder, records)
        preprocess(raw, tmp_path / f"{folder}-lists", DECLARATION, options=OPTIONS)
    assert logs.digests(tmp_path / "ours-lists") == logs.digests(tmp_path / "theirs-lists")


def test_plain_meanings_and_no_others_are_read():
    row = {"user_id": 7.0, "item_id": 12, "time": "2024-01-05T12:00:00.9+02:00", "feedback": {"click": True}}
    read = CommonForms(DECLARATION)({**row, "colour": [1, {}]}, "interactions")
    assert read == {"user_id": "7", "item_id": "12", "time": 1704448800, "feedback": {"click": 1.0}}
    assert CommonForms(DECLARATION)({"time": 1700000000.0}, "rows")["time"] == 1700000000
    with pytest.raises(RecordError, match="--time_zone"):
        CommonForms(DECLARATION)({"time": "2024-01-05 12:00:00"}, "rows")
    berlin = CommonForms(DECLARATION, "Europe/Berlin")
    assert berlin({"time": "2024-01-05 11:00:00"}, "rows")["time"] == 1704448800
    for time_ in (5.5, True, "12:00", None):
        assert berlin({"time": time_}, "rows")["time"] is time_


def csv_records(tmp_path, content: bytes, name: str = "impressions.csv") -> list:
    (tmp_path / name).write_bytes(content)
    (each,) = find_ranges(RawInputs((str(tmp_path / name),)))
    return [record.data for record in read_range(each)]


def test_a_byte_order_mark_before_a_quoted_header_hides_no_column(tmp_path):
    content = b'\xef\xbb\xbf"request_id","user_id"\n"r1","u1"\n'
    assert csv_records(tmp_path, content) == [{"request_id": "r1", "user_id": "u1"}]


@pytest.mark.parametrize(
    "content",
    [b'a,b\n1,2\n3,"4\n5,6\n', b'a,b\n1,2\n3,"4\n5,"6"\n', b'a,b\n1,2\n"3,4\n'],
    ids=["to the end", "to the next quote", "in the first cell"],
)
def test_a_quote_that_is_not_closed_stops_the_job_with_file_and_line(tmp_path, content):
    with pytest.raises(InputError, match=r"impressions\.csv:3: not CSV"):
        csv_records(tmp_path, content)


def test_endings_are_read_whatever_their_case_and_unknown_ones_are_named(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=3))
    os.rename(raw / "items.jsonl", raw / "items.JSONL")
    (raw / "notes.txt").write_text("mine")
    inputs = RawInputs.from_folder(raw)
    assert inputs.items == (str(raw / "items.JSONL"),)
    assert unread_files(raw, inputs) == ["notes.txt"]
    (raw / "impressions-2.tsv").write_text("")
    with pytest.raises(InputError, match=r"impressions-2\.tsv: the format is not known"):
        RawInputs.from_folder(raw)


def test_a_kind_that_loses_more_than_allowed_fails_with_an_example_and_keeps_its_dead_letters(tmp_path):
    data = logs.records()
    data["users"] = [{**user, "user_id": ["u"]} for user in data["users"]]
    raw = logs.write_folder(tmp_path / "raw", data)
    with pytest.raises(InputError) as failed:
        preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    said = str(failed.value)
    assert "users cannot be used, 100.0%, more than --max_dropped 0.01" in said
    assert (
        "most often wrong_type" in said and "user_id: expected a string, got a list (users.jsonl:0)" in said
    )
    assert "occurs in no record" not in said
    assert not (tmp_path / "lists").exists()
    (kept,) = (tmp_path / "lists.dead_letters").iterdir()
    assert len(kept.read_text().splitlines()) == len(data["users"])


def test_copies_of_what_was_kept_are_no_loss(tmp_path):
    data = logs.records()
    data["impressions"] += data["impressions"][:20]
    data["users"] += data["users"]
    raw = logs.write_folder(tmp_path / "raw", data)
    manifest = preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    assert manifest["counts"]["dropped"] == {"duplicate_request": 20}


@pytest.mark.slow
def test_answers_that_stand_in_the_histories_are_measured_and_remarked(tmp_path, capsys):
    data = logs.records()
    raw = logs.write_folder(tmp_path / "raw", data)
    declared = json.dumps(DECLARATION.to_dict())
    (raw / "features.json").write_text(declared)
    preprocess(raw, tmp_path / "lists", DECLARATION, options=OPTIONS)
    sound = load_json(tmp_path / "lists" / "manifest.json")["in_history"]
    # A clock that is a minute behind: what came of a list is logged before it.
    early = [
        {"user_id": each["user_id"], "item_id": shown["item_id"], "time": each["time"] - 60 + rank,
         "feedback": shown["feedback"]}
        for each in data["impressions"]
        for rank, shown in enumerate(each["candidates"])
        if shown["feedback"]["rating"] >= 4
    ]  # fmt: skip
    (raw / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in early))
    command = ["preprocess", "--input_dir", str(raw), "--output_dir", str(tmp_path / "skewed")]
    assert main([*command, "--latest_time", str(OPTIONS.latest_time)]) == 0
    leaking = load_json(tmp_path / "skewed" / "manifest.json")["in_history"]
    assert sound["positives"] == leaking["positives"] > 0
    assert leaking["positives_in_history"] > 0.8 * leaking["positives"]
    said = capsys.readouterr().out
    assert "The histories may hold the answers" in said and "Candidates with a label of 1 or more" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_runner_turns_into_its_own_exception_ends_the_job_all_the_same(number, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended, ended_by_signals():
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt as interrupt:
                raise RuntimeError("KeyboardInterrupt [while running 'Write lists']") from interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == "psad: interrupted\n"


@pytest.mark.process
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_stopped_leaves_nothing_and_says_one_line(tmp_path, sent, code):
    raw = logs.write_folder(tmp_path / "raw", logs.records(lists=4000))
    (raw / "features.json").write_text(json.dumps(DECLARATION.to_dict()))
    command = ["preprocess", "--input_dir", str(raw), "--output_dir", str(tmp_path / "lists")]
    job = subprocess.Popen(
        [sys.executable, "-m", "psad_tf.cli", *command, "--max_dropped", "1"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        # As from a terminal, even where the tests themselves run in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not list(tmp_path.glob("lists.tmp-*")):
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    job.send_signal(sent)
    _, said = job.communicate(timeout=60)
    assert job.returncode == code
    progress = ("Read ", "preprocess: ")
    lines = [line for line in said.splitlines() if not line.startswith(progress)]
    assert lines == ["psad: interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_options_that_cannot_be_meant_are_refused():
    for change in ({"max_dropped": 1.5}, {"time_zone": "Middle/Earth"}):
        with pytest.raises(InputError, match=next(iter(change))):
            dataclasses.replace(OPTIONS, **change)
