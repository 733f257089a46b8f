import marshal
import random

from psad_tf.beam.sorted_runs import RunWriter, merge_runs
from psad_tf.beam.transforms.check import REQUESTS, request_key
from psad_tf.beam.transforms.deduplicate import Deduplicate
from psad_tf.beam.transforms.read import STOP, TIMELINE, split_timeline_key
from psad_tf.beam.transforms.split import TIMES
from tests.beam import logs

NOON = logs.START


def _sent(folder, copies, workers=3):
    """The requests as several readers send them, in no order."""
    writers = [RunWriter(str(folder), REQUESTS) for _ in range(workers)]
    random.Random(0).shuffle(copies)
    for number, (data, source) in enumerate(copies):
        key = request_key(data["request_id"].encode(), data["time"])
        writers[number % workers].add(0, key, marshal.dumps((data, source), 2))
    return [(REQUESTS, partition, run) for writer in writers for partition, run in writer.close()]


def _kept(found):
    entries = merge_runs(logs.payloads(found, TIMELINE))
    return [(split_timeline_key(key)[:2], marshal.loads(value)[1]) for key, value in entries]


def test_the_earliest_impression_of_a_request_is_kept_whoever_else_repeats_it(tmp_path):
    first = logs.impression(0, 1, NOON, [1, 2])
    later = {**first, "time": NOON + 9}
    elsewhere = {**first, "time": NOON + 5, "user_id": "user-2"}
    other = logs.impression(1, 2, NOON, [3])
    copies = [(first, "first"), (later, "later"), (elsewhere, "elsewhere"), (other, "other")]
    found = logs.through(Deduplicate(str(tmp_path), 1, 1 << 20), _sent(tmp_path, copies), tmp_path)
    assert _kept(found) == [((b"user-1", NOON), "first"), ((b"user-2", NOON), "other")]
    assert logs.counts(found) == {"impressions/dropped/duplicate_request": 2}
    # The times that split the lists count a request once.
    assert sum(run.records for run in logs.payloads(found, TIMES)) == 1


def test_of_equally_early_impressions_the_same_one_is_kept_in_whatever_order_they_are_read(tmp_path):
    copies = [(logs.impression(0, user, NOON, [user]), f"log:{user}") for user in range(6)]
    kept = set()
    for workers in (1, 2, 5):
        sent = _sent(tmp_path, list(copies), workers)
        found = logs.through(Deduplicate(str(tmp_path), 1, 500), sent, tmp_path)
        kept.add(str(_kept(found)))
        assert logs.counts(found) == {"impressions/dropped/duplicate_request": 5}
    assert len(kept) == 1


def test_after_a_damaged_file_no_list_is_made_of_the_rest(tmp_path):
    sent = _sent(tmp_path, [(logs.impression(0, 1, NOON, [1, 2]), "log")])
    found = logs.through(Deduplicate(str(tmp_path), 1, 1 << 20), [*sent, (STOP, 0, None)], tmp_path)
    assert found == []
