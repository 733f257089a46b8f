import random

import tensorflow as tf

from psad_tf.beam.sorted_runs import RunWriter
from psad_tf.beam.transforms.histories import LISTS
from psad_tf.beam.transforms.shards import WriteShards
from psad_tf.beam.writers import PARTS
from tests.beam import logs


def _written(folder, workers):
    """Two splits of two shards, their lists sent by so many workers in another order each time."""
    folder.mkdir()
    (folder / PARTS).mkdir()
    entries = [(number % 4, f"{number:03d}".encode(), f"list {number}".encode() * 9) for number in range(100)]
    random.Random(workers).shuffle(entries)
    writers = [RunWriter(str(folder), LISTS, buffer_bytes=4000) for _ in range(workers)]
    for number, entry in enumerate(entries):
        writers[number % workers].add(*entry)
    sent = [(LISTS, partition, run) for writer in writers for partition, run in writer.close()]
    found = logs.through(WriteShards(str(folder), 2, 4), sent, folder)
    infos = {info["name"]: info for _, info in logs.payloads(found, "report")}
    return {name: (folder / PARTS / info["part"], info) for name, info in infos.items()}


def test_a_shard_holds_its_lists_in_the_order_of_their_keys(tmp_path):
    files = _written(tmp_path / "a", 3)
    assert sorted(files) == [
        "train/part-00000-of-00002.tfrecord.gz", "train/part-00001-of-00002.tfrecord.gz",
        "valid/part-00000-of-00002.tfrecord.gz", "valid/part-00001-of-00002.tfrecord.gz",
    ]  # fmt: skip
    path, info = files["train/part-00001-of-00002.tfrecord.gz"]
    read = list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())
    assert read == [f"list {number}".encode() * 9 for number in range(1, 100, 4)]
    assert info["records"] == 25


def test_the_number_of_workers_changes_no_byte(tmp_path):
    one, many = _written(tmp_path / "one", 1), _written(tmp_path / "many", 7)
    assert {name: info["sha256"] for name, (_, info) in one.items()} == {
        name: info["sha256"] for name, (_, info) in many.items()
    }
