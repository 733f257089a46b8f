import random
import struct
from collections import Counter, deque

import pytest

import psad_tf.beam.transforms.vocabularies as vocabularies
from psad_tf.beam.messages import partition_of
from psad_tf.beam.sorted_runs import RunWriter, merge_runs
from psad_tf.beam.transforms.encode import ListEncoder
from psad_tf.beam.transforms.vocabularies import COUNTS, RankValues, ValueCounter, WriteVocabularies
from psad_tf.beam.writers import PARTS
from tests.beam import logs
from tests.beam.logs import DECLARATION

NAMES = ("genres", "item_id")


def _sent(folder, values, partitions=3, workers=4):
    """The counts of (vocabulary, value) pairs as several workers send them."""
    messages = []
    for worker in range(workers):
        writer = RunWriter(str(folder), "values", buffer_bytes=3000)
        for (vocabulary, value), count in Counter(values[worker::workers]).items():
            key = vocabulary.to_bytes(2, "big") + value.encode()
            writer.add(partition_of(key, partitions), key, struct.pack(">Q", count))
        messages += [(COUNTS, partition, run) for partition, run in writer.close()]
    return messages


def _written(folder, values, min_count=1, cap=10**6, partitions=3):
    (folder / PARTS).mkdir(exist_ok=True)
    ranked = logs.through(RankValues(str(folder), min_count), _sent(folder, values, partitions), folder)
    found = logs.through(WriteVocabularies(str(folder), NAMES, cap), ranked, folder)
    files = {}
    for _, info in logs.payloads(found, "report"):
        text = (folder / PARTS / info["part"]).read_text(encoding="utf-8")
        files[info["name"]] = text.splitlines()
        assert info["records"] == len(files[info["name"]])
    return files


@pytest.fixture(scope="module")
def values():
    """30,000 draws of 5,000 values, many of them equally frequent."""
    rng = random.Random(3)
    return [(rng.randrange(2), f"знач-{int(5000 * rng.random() ** 3)}") for _ in range(30_000)]


@pytest.mark.parametrize(("min_count", "cap"), [(1, 10**6), (1, 1000), (3, 10**6), (2, 77)])
def test_the_most_frequent_values_are_kept_exactly(tmp_path, values, min_count, cap):
    found = _written(tmp_path, values, min_count, cap)
    for number, name in enumerate(NAMES):
        counts = Counter(value for vocabulary, value in values if vocabulary == number)
        ordered = sorted(counts, key=lambda value: (-counts[value], value.encode()))
        expected = [value for value in ordered if counts[value] >= min_count][:cap]
        assert 0 < len(expected) <= len(counts)
        assert found[f"vocabularies/{name}.txt"] == expected


def test_a_value_that_is_rare_on_every_worker_is_counted_as_a_whole(tmp_path):
    # Once on each of the four workers: four in all.
    values = [(0, "spread")] * 4 + [(0, "rare")] * 3
    assert _written(tmp_path, values, min_count=4) == {"vocabularies/genres.txt": ["spread"]}


def test_the_number_of_partitions_changes_nothing(tmp_path, values):
    assert _written(tmp_path, values, cap=300, partitions=1) == _written(
        tmp_path, values, cap=300, partitions=11
    )


def test_a_counter_that_sends_what_it_has_now_and_then_counts_the_same(tmp_path, monkeypatch):
    attributes = {f"item-{n}": {"genres": ["war", "drama"][: n % 3]} for n in range(20)}
    encoder = ListEncoder(DECLARATION, attributes.get)
    user = encoder.user("user-1", None)
    found = []
    for waiting in (10**6, 5):
        monkeypatch.setattr(vocabularies, "_WAITING", waiting)
        counter = ValueCounter(str(tmp_path), DECLARATION, encoder, 1)
        for number in range(30):
            data = logs.impression(number, 1, logs.START, [number % 20, (number + 1) % 20])
            counter.add(encoder.encode(data, user, deque()), ())
        totals = Counter()
        for key, value in merge_runs(logs.payloads(counter.close(), COUNTS)):
            totals[key] += struct.unpack(">Q", value)[0]
        found.append(totals)
    assert found[0] == found[1]
    assert sum(found[0].values()) > 100
