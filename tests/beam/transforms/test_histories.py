import marshal
import struct
import tracemalloc
from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from psad_tf.beam.dead_letters import DeadLetters
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.sorted_runs import RunWriter
from psad_tf.beam.sources import FileRange
from psad_tf.beam.transforms.encode import ListEncoder
from psad_tf.beam.transforms.histories import JoinHistories, joined
from psad_tf.beam.transforms.presence import Presence
from psad_tf.beam.transforms.read import INTERACTION, REQUEST, TIMELINE, ReadRecords, timeline_key
from tests.beam import logs
from tests.beam.logs import DECLARATION

NOON = logs.START


def _interaction(time, item, user=1, rating=3):
    return {
        "user_id": f"user-{user}",
        "item_id": f"item-{item}",
        "time": time,
        "feedback": {"rating": rating},
    }


def _timeline(tmp_path, impressions, interactions, users=()):
    """Messages of the records' timelines, as the steps before the join send them."""
    writer = RunWriter(str(tmp_path), TIMELINE)
    for data in impressions:
        user = data["user_id"].encode()
        key = timeline_key(user, data["time"], REQUEST, data["request_id"].encode())
        writer.add(0, key, marshal.dumps((data, "log:0"), 2))
    for data in interactions:
        key = timeline_key(data["user_id"].encode(), data["time"], INTERACTION, data["item_id"].encode())
        writer.add(0, key, struct.pack("<f", data["feedback"]["rating"]) + data["item_id"].encode())
    for number, data in enumerate(users):
        key = timeline_key(data["user_id"].encode(), 0, 0, b"")
        writer.add(0, key, marshal.dumps((data, f"users:{number}"), 2))
    return [run for _, run in writer.close()]


def _joined(tmp_path, impressions, interactions, users=(), attributes=lambda item_id: None):
    counts, dead = Counter(), DeadLetters(str(tmp_path), 1)
    runs = _timeline(tmp_path, impressions, interactions, users)
    encoder = ListEncoder(DECLARATION, attributes)
    found = {
        data["request_id"]: [(past.time, past.item_id, past.feedback) for past in history]
        for data, _, history in joined(runs, DECLARATION, encoder, dead, counts, Presence(DECLARATION))
    }
    return found, counts, dead


def test_nothing_at_or_after_a_requests_moment_is_in_its_history(tmp_path):
    planted = [_interaction(NOON, 1), _interaction(NOON + 1, 2), _interaction(NOON + 9, 3)]
    found, _, _ = _joined(
        tmp_path, [logs.impression(0, 1, NOON, [1, 2])], [*planted, _interaction(NOON - 1, 4)]
    )
    assert found == {"request-0": [(NOON - 1, "item-4", (3.0,))]}


def test_a_later_request_sees_what_happened_since(tmp_path):
    impressions = [logs.impression(number, 1, NOON + 10 * number, [1]) for number in range(3)]
    found, _, _ = _joined(tmp_path, impressions, [_interaction(NOON + 5, 1), _interaction(NOON + 15, 2)])
    assert {key: [item for _, item, _ in each] for key, each in found.items()} == {
        "request-0": [], "request-1": ["item-1"], "request-2": ["item-1", "item-2"],
    }  # fmt: skip


def test_only_the_last_interactions_are_kept_and_only_the_users_own(tmp_path):
    interactions = [_interaction(NOON - 100 + n, n) for n in range(9)] + [_interaction(NOON - 1, 77, user=2)]
    found, _, _ = _joined(tmp_path, [logs.impression(0, 1, NOON, [1])], interactions)
    assert [item for _, item, _ in found["request-0"]] == [f"item-{n}" for n in range(4, 9)]


def test_a_user_whose_id_starts_with_anothers_is_not_mixed_up(tmp_path):
    requests = [logs.impression(0, 1, NOON, [1]), logs.impression(1, 11, NOON, [1])]
    found, _, _ = _joined(tmp_path, requests, [_interaction(5, 1, user=1), _interaction(5, 2, user=11)])
    assert found["request-0"] != found["request-1"]
    assert [item for _, item, _ in found["request-1"]] == ["item-2"]


def test_a_users_second_row_is_a_dead_letter(tmp_path):
    rows = [{"user_id": "user-1", "age": 30}, {"user_id": "user-1", "age": 31}]
    _, counts, dead = _joined(tmp_path, [logs.impression(0, 1, NOON, [1])], [], rows)
    assert counts["users/kept"] == 1
    assert dead.counts == {"users/dropped/duplicate_user_row": 1}


def test_lists_that_lack_a_part_are_counted(tmp_path):
    requests = [logs.impression(number, number, NOON, [1]) for number in (1, 2)]
    _, counts, _ = _joined(tmp_path, requests, [_interaction(1, 1, user=1)], [{"user_id": "user-2"}])
    assert counts["joins/lists_without_history"] == 1
    assert counts["joins/lists_without_user"] == 1
    assert counts["interactions/kept"] == 1


def test_an_error_names_the_request_and_the_line(tmp_path):
    def broken(item_id):
        if item_id == "item-13":
            raise OSError("the item table is damaged")

    with pytest.raises(RuntimeError, match=r"log:0: request 'request-3' could not be encoded"):
        _joined(tmp_path, [logs.impression(3, 1, NOON, [1, 13])], [], attributes=broken)


def test_a_hot_user_is_joined_in_the_memory_of_any_other(tmp_path):
    """100,000 interactions and 50 requests of one user: the join holds a few blocks of the runs."""
    writer = RunWriter(str(tmp_path), TIMELINE, buffer_bytes=4 << 20)
    for number in range(100_000):
        # Not in time order.
        time = NOON + (number * 7919) % 100_000
        writer.add(0, timeline_key(b"hot", time, INTERACTION, b"item-1"), struct.pack("<f", 1) + b"item-1")
    for number in range(50):
        data = {**logs.impression(number, 0, NOON + 2000 * (number + 1), [1]), "user_id": "hot"}
        key = timeline_key(b"hot", data["time"], REQUEST, data["request_id"].encode())
        writer.add(0, key, marshal.dumps((data, "log:0"), 2))
    runs = [run for _, run in writer.close()]
    assert len(runs) >= 5
    encoder = ListEncoder(DECLARATION, lambda item_id: None)
    counts: Counter[str] = Counter()
    tracemalloc.start()
    try:
        ages = [
            [data["time"] - past.time for past in history]
            for data, _, history in joined(
                runs, DECLARATION, encoder, DeadLetters(str(tmp_path), 1), counts, Presence(DECLARATION)
            )
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ages == [[5, 4, 3, 2, 1]] * 50
    assert counts["interactions/kept"] == 100_000
    assert peak < 16 << 20


def test_as_a_step_it_takes_what_the_reader_sends(tmp_path):
    data = logs.records(lists=5)
    raw, work = logs.write_folder(tmp_path / "raw", data), tmp_path / "work"
    work.mkdir()
    size = (raw / "interactions.jsonl").stat().st_size
    interactions = FileRange("interactions", str(raw / "interactions.jsonl"), "log", "jsonl", "", 0, size)
    options = PreprocessOptions(num_partitions=1, latest_time=logs.START * 2)
    runs = _timeline(work, data["impressions"], [])
    with logs.pipeline() as pipeline:
        read = pipeline | beam.Create([interactions]) | ReadRecords(str(work), DECLARATION, options)
        requests = pipeline | "Requests" >> beam.Create([(TIMELINE, 0, run) for run in runs])
        sent = (read, requests) | beam.Flatten() | JoinHistories(str(work), DECLARATION, options)
        counts = (
            sent
            | beam.Filter(lambda message: message[0] == "report" and message[2][0] == "counts")
            | beam.Map(lambda message: sorted(message[2][1].items()))
            | beam.FlatMap(lambda items: [value for key, value in items if key == "lists/train"])
        )
        assert_that(counts, equal_to([5]))
