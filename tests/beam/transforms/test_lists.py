"""Of a request's copies one list is made, the same one in whatever order they come."""

import random

import pytest

import psad_tf.beam.transforms.lists as lists_module
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from tests.beam import logs
from tests.beam.logs import DECLARATION

NOON = logs.START
OPTIONS = PreprocessOptions(num_shards=2, latest_time=NOON * 2, max_dropped=1.0)


def _made(folder, impressions, options=OPTIONS):
    data = logs.records(lists=20)
    raw = logs.write_folder(folder / "raw", {**data, "impressions": [*data["impressions"], *impressions]})
    manifest = preprocess(raw, folder / "lists", DECLARATION, options=options)
    return manifest, logs.read_lists(folder / "lists"), logs.dead_letters(folder / "lists")


def test_the_earliest_impression_of_a_request_is_kept_whoever_else_repeats_it(tmp_path):
    first = logs.impression(900, 1, NOON + 5, [1, 2])
    later, elsewhere = {**first, "time": NOON + 9}, {**first, "time": NOON + 7, "user_id": "user-2"}
    manifest, lists, letters = _made(tmp_path, [later, elsewhere, first])
    assert logs.values(lists["request-900"].context, "request_time") == [NOON + 5]
    assert manifest["counts"]["dropped"] == {"duplicate_request": 2}
    assert sorted(letter["record"]["time"] for letter in letters) == [NOON + 7, NOON + 9]


@pytest.mark.slow
def test_of_equally_early_impressions_the_same_one_is_kept_in_whatever_order_they_are_read(tmp_path):
    copies = [{**logs.impression(900, user, NOON, [user]), "split": None} for user in range(5)]
    kept = set()
    for seed in range(2):
        random.Random(seed).shuffle(copies)
        manifest, lists, _ = _made(tmp_path / str(seed), copies)
        kept.add(tuple(logs.values(lists["request-900"].context, "user_id")))
        assert manifest["counts"]["dropped"] == {"duplicate_request": 4}
    assert len(kept) == 1


@pytest.mark.slow
def test_a_table_of_many_items_is_joined_by_shuffle_to_the_same_bytes(tmp_path):
    raw = logs.write_folder(tmp_path / "raw", logs.records())
    preprocess(raw, tmp_path / "few", DECLARATION, options=OPTIONS)
    many = PreprocessOptions(num_shards=2, latest_time=NOON * 2, side_input_bytes=1, max_dropped=1.0)
    preprocess(raw, tmp_path / "many", DECLARATION, options=many)
    assert logs.digests(tmp_path / "many") == logs.digests(tmp_path / "few")


def test_an_error_names_the_request_and_the_line(tmp_path, monkeypatch):
    class Broken(lists_module.RecordEncoder):
        def encode(self, data, user=None, history=()):
            if data["request_id"] == "request-13":
                raise ZeroDivisionError("a defect of the job")
            return super().encode(data, user, history)

    monkeypatch.setattr(lists_module, "RecordEncoder", Broken)
    with pytest.raises(RuntimeError, match=r"impressions.jsonl:\d+: request 'request-13' could not be"):
        _made(tmp_path, [])


def test_the_manifest_tells_coverage_and_positives(tmp_path):
    manifest, lists, _ = _made(tmp_path, [])
    assert manifest["coverage"]["age"] == 20 - manifest["joins"]["lists_without_user"]
    positives = [logs.values(c, "relevance")[0] > 0 for each in lists.values() for c in each.examples]
    assert sum(manifest["positives"].values()) == sum(positives) > 0


def test_what_was_not_shown_has_no_position_and_no_label(tmp_path):
    partly = logs.impression(900, 1, NOON, [1, 2, 3])
    for slot, candidate in zip((1, None, 0), partly["candidates"], strict=True):
        candidate["feedback"] = {"bought": 1} if slot is not None else {}
        candidate["position"] = slot
    _, lists, _ = _made(tmp_path, [partly])
    examples = lists["request-900"].examples
    assert [logs.values(each, "shown_position") for each in examples] == [[1], [-1], [0]]
    assert [logs.values(each, "relevance") for each in examples] == [[3], [0], [3]]
    whole = lists["request-0"].examples
    assert [logs.values(each, "shown_position") for each in whole] == [[n] for n in range(len(whole))]
