import json
import pickle

import pytest

from psad_tf.data.records import (
    Candidate,
    Impression,
    Interaction,
    RecordError,
    check_attributes,
    check_impression,
    check_row,
    cut_candidates,
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


UNSHOWN = {"item_id": "x", "initial_score": 0, "feedback": {"rating": 0}}


def _shown(count: int, *slots: int | None, **changes: object) -> dict:
    """A list of `count` candidates of which the first ones have the given slots, and feedback where shown."""
    candidates = []
    for index in range(count):
        slot = slots[index] if index < len(slots) else None
        candidate = {"item_id": f"i{index}", "initial_score": float(-index), "position": slot}
        if slot is not None:
            candidate["feedback"] = {"click": index % 2}
        candidates.append(candidate)
    return {**IMPRESSION.to_dict(), "candidates": candidates, **changes}


def test_fifty_candidates_of_which_ten_were_shown_come_back_equal():
    impression = Impression.from_dict(_shown(50, 7, 3, 9, 1, 0, 2, 4, 5, 6, 8))
    assert Impression.from_dict(json.loads(json.dumps(impression.to_dict()))) == impression
    assert [each.position for each in impression.candidates[:3]] == [7, 3, 9]
    assert len(impression.shown()) == 10
    assert len(Impression.from_dict(_shown(50)).shown()) == 50


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_shown(3, 1, 1), "duplicate_position"),
        (_shown(3, 0, -1), "negative_position"),
        (_shown(3, 0, 3), "position_beyond_list"),
        (_shown(3, 0, 1.0), "wrong_type"),
        (_shown(3, 0, True), "wrong_type"),
        (_shown(3, 0, feedback={"i1": {"click": 1}}), "feedback_for_item_not_shown"),
        (_shown(3, 0, feedback={"i2": {"click": 0}}), "feedback_for_item_not_shown"),
        (_shown(3, 0, candidates=[*_shown(2, 0)["candidates"], UNSHOWN]), "feedback_for_item_not_shown"),
    ],
)  # fmt: skip
def test_what_was_shown_is_checked(data, reason):
    with pytest.raises(RecordError) as caught:
        check_impression(data)
    assert caught.value.reason == reason


def test_slots_may_be_left_out_and_null_feedback_of_an_unshown_candidate_is_none():
    check_impression(_shown(5, 4, 1, feedback={"i4": {"click": None}, "i3": {}}))


def test_a_list_that_is_cut_keeps_what_was_shown():
    kept = cut_candidates(_shown(50, *[None] * 40, *range(10))["candidates"], 12)
    assert [each["item_id"] for each in kept] == ["i0", "i1", *(f"i{index}" for index in range(40, 50))]
    kept = cut_candidates(_shown(5, None, 4, 1, 0)["candidates"], 3)
    assert [each["item_id"] for each in kept] == ["i0", "i2", "i3"]
    check_impression({**IMPRESSION.to_dict(), "candidates": kept})
    assert len(cut_candidates(_shown(5)["candidates"], 3)) == 3


def test_a_rows_position_is_a_slot():
    row = {"user_id": "u", "time": 5, "item_id": "i", "initial_score": 1}
    check_row({**row, "position": 3})
    for position, reason in ((-1, "negative_position"), (1.5, "wrong_type")):
        with pytest.raises(RecordError) as caught:
            check_row({**row, "position": position})
        assert caught.value.reason == reason


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
