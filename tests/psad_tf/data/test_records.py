import json
import pickle

import pytest

from psad_tf.data.records import (
    Candidate,
    Impression,
    Interaction,
    RecordError,
    check_attributes,
    check_row,
    read_json_lines,
    write_json_lines,
)
from psad_tf.errors import InputError

IMPRESSION = Impression(
    request_id="r1",
    user_id="u1",
    time=1_600_000_000,
    candidates=(
        Candidate("i1", 0.5, {"click": 1.0}, {"price": 3, "genres": ["war", "drama"]}),
        Candidate("i2", -0.5),
    ),
    context={"device": "phone"},
    split="test",
)


def test_an_impression_comes_back_from_json_equal():
    assert Impression.from_dict(json.loads(json.dumps(IMPRESSION.to_dict()))) == IMPRESSION


def test_an_interaction_comes_back_from_json_equal():
    interaction = Interaction("u1", "i1", 5, {"rating": 4})
    assert Interaction.from_dict(json.loads(json.dumps(interaction.to_dict()))) == interaction


def test_null_is_the_same_as_absent():
    data = IMPRESSION.to_dict()
    data["context"]["hour"] = None
    data["candidates"][1]["feedback"] = None
    data["candidates"][0]["features"]["brand"] = None
    assert Impression.from_dict(data) == IMPRESSION


def test_feedback_beside_the_list_is_its_candidates():
    data = IMPRESSION.to_dict()
    data["feedback"] = {"i2": {"click": 1}}
    assert Impression.from_dict(data).candidates[1].feedback == {"click": 1}
    data["feedback"] = {"i3": {"click": 1}}
    with pytest.raises(RecordError, match="item 'i3' is not in the list"):
        Impression.from_dict(data)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("request_id", None, "missing_field"),
        ("user_id", "", "empty_id"),
        ("time", 1_600_000_000_000, "time_not_in_seconds"),
        ("time", 1.5, "wrong_type"),
        ("split", "dev", "unknown_split"),
        ("candidates", [], "no_candidates"),
        ("context", {"hour": True}, "wrong_type"),
    ],
)
def test_an_error_has_the_reason_and_the_key(key, value, reason):
    with pytest.raises(RecordError, match=key) as caught:
        Impression.from_dict({**IMPRESSION.to_dict(), key: value})
    assert caught.value.reason == reason
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.reason, copied.detail) == (caught.value.reason, caught.value.detail)


def test_a_row_needs_no_request_id_but_a_score():
    row = {"user_id": "u", "time": 5, "item_id": "i", "initial_score": 1}
    check_row(row)
    with pytest.raises(RecordError, match="initial_score: is missing"):
        check_row({**row, "initial_score": None})


def test_attributes_may_be_strings_numbers_and_lists_of_strings():
    check_attributes(
        {"item_id": "i", "year": 1999, "genres": ["war"], "title": "x", "brand": None}, "item_id"
    )
    with pytest.raises(RecordError, match="genres: expected strings in the list, got 1"):
        check_attributes({"item_id": "i", "genres": [1]}, "item_id")


def test_json_lines_come_back_and_a_bad_line_is_named(tmp_path):
    path = tmp_path / "users.jsonl"
    assert write_json_lines(path, [{"user_id": "ü"}, {"user_id": "b"}]) == 2
    assert list(read_json_lines(path)) == [{"user_id": "ü"}, {"user_id": "b"}]
    path.write_text('{"user_id": "a"}\n\n{"user_id": \n')
    with pytest.raises(InputError, match=r"users\.jsonl:3: not JSON"):
        list(read_json_lines(path))
    with pytest.raises(InputError, match=r"missing\.jsonl: no such file"):
        list(read_json_lines(tmp_path / "missing.jsonl"))


def test_a_number_that_json_does_not_have_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json_lines(tmp_path / "a.jsonl", [{"score": float("nan")}])
    assert not list(tmp_path.iterdir())
