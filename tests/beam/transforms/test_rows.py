import dataclasses
import json
import random

import pytest

import psad_tf.beam.transforms.rows as rows_module
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.beam.sources import RawInputs
from tests.beam import logs
from tests.beam.logs import DECLARATION

NOON = logs.START
OPTIONS = PreprocessOptions(num_shards=1, latest_time=NOON * 2, session_gap_seconds=100, max_dropped=1.0)


def _rows_of(impressions):
    """The impressions as rows, in no order."""
    rows = []
    for impression in impressions:
        for position, candidate in enumerate(impression["candidates"]):
            rows.append(
                {
                    "request_id": impression["request_id"],
                    "user_id": impression["user_id"],
                    "time": impression["time"],
                    "position": position,
                    "item_id": candidate["item_id"],
                    "initial_score": candidate["initial_score"],
                    "context": impression["context"],
                    "feedback": candidate["feedback"],
                    "features": candidate["features"],
                }
            )
    random.Random(0).shuffle(rows)
    return rows


def _row(time, item, score=0.5, rating=3, user=1, **other):
    return {
        "user_id": f"user-{user}",
        "time": time,
        "item_id": f"item-{item}",
        "initial_score": score,
        "feedback": {"rating": rating},
        **other,
    }


def _preprocess(tmp_path, rows, options=OPTIONS, name="flat"):
    data = logs.records()
    # A few whole impressions, so that every declared feature occurs in some training list.
    raw = logs.write_folder(tmp_path / name, {**data, "rows": rows})
    inputs = dataclasses.replace(
        RawInputs.from_folder(raw), impressions=(f"{raw}/impressions.jsonl", f"{raw}/rows.jsonl")
    )
    manifest = preprocess(inputs, tmp_path / "lists", DECLARATION, options=options)
    lists = logs.read_lists(tmp_path / "lists")
    whole = {each["request_id"] for each in data["impressions"]}
    return manifest, {key: each for key, each in lists.items() if key not in whole}


def _items(found):
    return [logs.values(example, "item_id")[0] for example in found.examples]


@pytest.mark.slow
def test_rows_of_a_request_make_the_list_that_the_whole_record_makes(tmp_path):
    data = logs.records()
    raw = logs.write_folder(tmp_path / "whole", data)
    flat = logs.write_folder(tmp_path / "flat", {**data, "impressions": _rows_of(data["impressions"])})
    preprocess(raw, tmp_path / "a", DECLARATION, options=OPTIONS)
    manifest = preprocess(flat, tmp_path / "b", DECLARATION, options=OPTIONS)
    assert logs.digests(tmp_path / "a") == logs.digests(tmp_path / "b")
    rows = sum(len(each["candidates"]) for each in data["impressions"])
    assert manifest["counts"]["rows"] == {"read": rows, "kept": rows, "dropped": {}}
    assert manifest["counts"]["read"] == manifest["counts"]["written"] == len(data["impressions"])


def _slots(found):
    return [logs.values(example, "shown_position")[0] for example in found.examples]


def test_rows_without_a_position_were_not_shown_where_others_have_one(tmp_path):
    rows = [
        _row(NOON, number, 1.0 - number / 64, rating=5, request_id="r", position=3 - number)
        if number < 4
        else _row(NOON, number, 1.0 - number / 64, rating=None, request_id="r")
        for number in range(10)
    ]
    _, found = _preprocess(tmp_path, rows)
    assert _items(found["r"]) == [f"item-{number}" for number in range(10)]
    assert _slots(found["r"]) == [3, 2, 1, 0, *[-1] * 6]


def test_a_session_numbers_the_slots_of_its_pages_anew(tmp_path):
    rows = [
        _row(NOON, 1, 0.1, position=0), _row(NOON, 2, 0.2, position=1), _row(NOON, 3, 0.3, rating=None),
        _row(NOON + 9, 4, 0.4, position=0), _row(NOON + 9, 2, 0.5, position=1),
    ]  # fmt: skip
    _, found = _preprocess(tmp_path, rows)
    (session,) = found.values()
    assert _items(session) == ["item-2", "item-4", "item-3", "item-1"]
    assert _slots(session) == [2, 1, -1, 0]


def test_a_pause_longer_than_the_gap_starts_a_new_list(tmp_path):
    times = [0, 100, 200, 301, 302]
    rows = [_row(NOON + time, number) for number, time in enumerate(times)] + [_row(NOON + 250, 9, user=2)]
    _, found = _preprocess(tmp_path, rows)
    assert {key: sorted(_items(each)) for key, each in found.items()} == {
        f"user-1@{NOON}": ["item-0", "item-1", "item-2"],
        f"user-1@{NOON + 301}": ["item-3", "item-4"],
        f"user-2@{NOON + 250}": ["item-9"],
    }
    assert logs.values(found[f"user-1@{NOON + 301}"].context, "request_time") == [NOON + 301]


def test_a_session_stands_by_score_and_an_item_shown_again_is_one_candidate(tmp_path):
    rows = [_row(NOON, 1, 0.2, 5), _row(NOON + 1, 2, 0.9, 1), _row(NOON + 2, 1, 0.1, 2)]
    manifest, found = _preprocess(tmp_path, rows)
    (session,) = found.values()
    assert _items(session) == ["item-2", "item-1"]
    assert [logs.values(each, "relevance")[0] for each in session.examples] == [0, 2]
    assert manifest["counts"]["rows"] == {"read": 3, "kept": 3, "dropped": {}}


def test_a_requests_rows_of_several_users_or_of_one_item_twice_are_dead_letters(tmp_path):
    rows = [
        _row(NOON, 1, request_id="two users"), _row(NOON, 2, request_id="two users", user=2),
        _row(NOON, 1, request_id="twice"), _row(NOON, 1, request_id="twice"),
    ]  # fmt: skip
    manifest, found = _preprocess(tmp_path, rows)
    assert found == {}
    assert manifest["counts"]["dropped"] == {"duplicate_item": 1, "several_users": 1}
    assert manifest["counts"]["read"] == manifest["counts"]["written"] + 2


def test_a_bad_row_is_a_dead_letter_of_its_own(tmp_path):
    rows = [_row(NOON, 1), {**_row(NOON, 2), "initial_score": "high"}, {**_row(NOON, 3), "time": None}]
    manifest, found = _preprocess(tmp_path, rows)
    assert [_items(each) for each in found.values()] == [["item-1"]]
    assert manifest["counts"]["rows"] == {
        "read": 3, "kept": 1, "dropped": {"missing_field": 1, "wrong_type": 1},
    }  # fmt: skip


def test_a_session_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_ROWS", 20)
    rows = [_row(NOON + number, number) for number in range(50)]
    manifest, found = _preprocess(tmp_path, rows)
    assert found == {}
    assert manifest["counts"]["rows"] == {"read": 50, "kept": 20, "dropped": {"too_many_candidates": 30}}
    assert manifest["counts"]["dropped"] == {"too_many_candidates": 1}


def test_dead_letters_of_rows_hold_the_row(tmp_path):
    bad = {**_row(NOON, 2), "initial_score": "high"}
    _preprocess(tmp_path, [bad])
    (letter,) = logs.dead_letters(tmp_path / "lists")
    assert letter["kind"] == "rows"
    assert letter["record"] == json.loads(json.dumps(bad))
