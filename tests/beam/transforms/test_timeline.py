import random

import orjson
import pytest

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import ATTRIBUTES, INTERACTION, ImpressionCheck, to_json
from psad_tf.beam.transforms.timeline import NEEDED, Joined, JoinHistories
from psad_tf.data.encode_record import RecordEncoder
from tests.beam import logs
from tests.beam.logs import DECLARATION

NOON = logs.START
OPTIONS = PreprocessOptions(num_shards=2, latest_time=NOON * 2, max_dropped=1.0)
ENCODER = RecordEncoder(DECLARATION, {}.get)


def _interaction(time, item, user=1, rating=3):
    value = ENCODER.interaction(time, f"item-{item}", {"rating": rating})
    return f"user-{user}".encode(), value[:8] + INTERACTION + value[8:]


def _user(row):
    return row["user_id"].encode(), bytes(8) + ATTRIBUTES + to_json([row, "users.jsonl:0"])


def _joined(folder, impressions, interactions, users=(), needed=False, buffer_bytes=1 << 20):
    check = ImpressionCheck(DECLARATION, OPTIONS)
    sent = [check.take(data, "log", {}) for data in impressions] + [*interactions, *map(_user, users)]
    random.Random(0).shuffle(sent)
    options = PreprocessOptions(num_shards=2, buffer_bytes=buffer_bytes)
    found = logs.outputs(JoinHistories(DECLARATION, options, needed), folder, sent)
    histories = {}
    for _, value in found.elements["joined"]:
        joined = Joined.of(value)
        data, _ = joined.request.record()
        past = [(int.from_bytes(each[:8], "big"), ENCODER.past_item(each)) for each in joined.history]
        histories[data["request_id"]] = past, joined.user
    return histories, found


def test_nothing_at_or_after_a_requests_moment_is_in_its_history(tmp_path):
    planted = [_interaction(NOON, 1), _interaction(NOON + 1, 2), _interaction(NOON + 9, 3)]
    found, _ = _joined(tmp_path, [logs.impression(0, 1, NOON, [1, 2])], [*planted, _interaction(NOON - 1, 4)])
    assert found == {"request-0": ([(NOON - 1, "item-4")], None)}


def test_a_later_request_sees_what_happened_since(tmp_path):
    impressions = [logs.impression(number, 1, NOON + 10 * number, [1]) for number in range(3)]
    found, _ = _joined(tmp_path, impressions, [_interaction(NOON + 5, 1), _interaction(NOON + 15, 2)])
    assert {key: [item for _, item in past] for key, (past, _) in found.items()} == {
        "request-0": [], "request-1": ["item-1"], "request-2": ["item-1", "item-2"],
    }  # fmt: skip


@pytest.mark.parametrize("buffer_bytes", [100, 1 << 20])
def test_only_the_last_interactions_are_kept_and_only_the_users_own(tmp_path, buffer_bytes):
    interactions = [_interaction(NOON - 100 + n, n) for n in range(9)] + [_interaction(NOON - 1, 77, user=2)]
    requests = [logs.impression(0, 1, NOON, [1]), logs.impression(1, 11, NOON, [1])]
    found, _ = _joined(tmp_path, requests, interactions, buffer_bytes=buffer_bytes)
    assert [item for _, item in found["request-0"][0]] == [f"item-{n}" for n in range(4, 9)]
    assert found["request-1"][0] == []


def test_interactions_of_one_second_stand_by_item_and_feedback(tmp_path):
    together = [_interaction(5, item, rating=rating) for item, rating in ((9, 1), (10, 5), (10, 2), (1, 3))]
    found, _ = _joined(tmp_path, [logs.impression(0, 1, NOON, [1])], together)
    assert [item for _, item in found["request-0"][0]] == ["item-1", "item-10", "item-10", "item-9"]


def test_of_a_users_rows_the_first_by_its_bytes_is_kept_and_the_others_are_dead_letters(tmp_path):
    rows = [{"user_id": "user-1", "age": age} for age in (31, 30, 32)]
    found, given = _joined(tmp_path, [logs.impression(0, 1, NOON, [1])], [], rows)
    assert orjson.loads(found["request-0"][1])[0]["age"] == 30
    assert given.counts == {"users/kept": 1, "users/dropped/duplicate_user_row": 2}
    assert [letter["record"]["age"] for letter in sorted(given.letters, key=str)] == [31, 32]


def test_each_shard_is_said_to_need_the_items_of_its_lists_and_histories(tmp_path):
    requests = [logs.impression(number, 1, NOON, [number, 50]) for number in range(8)]
    _, given = _joined(tmp_path, requests, [_interaction(5, 99)], needed=True)
    needed = given.elements[NEEDED]
    assert len(needed) == len(set(needed))
    assert {item.decode() for item, _ in needed} == {f"item-{n}" for n in (*range(8), 50, 99)}
    shards = set()
    for shard, value in given.elements["joined"]:
        data, _ = Joined.of(value).request.record()
        number = data["request_id"].removeprefix("request-")
        shards.add(shard)
        assert (f"item-{number}".encode(), shard) in needed
    assert shards == {0, 1}
