import struct

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import input_pb2

from psad_tf.beam import wire
from psad_tf.beam.crc32c import crc32c_numpy
from psad_tf.beam.writers import PARTS, OutputFile, tfrecord

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.binary(max_size=200)), INT64, st.lists(st.floats(width=32, allow_nan=False)))
def test_the_protos_read_what_is_encoded(strings, number, floats):
    entries = (
        wire.bytes_entry("strings", wire.byte_values(strings))
        + wire.int_entry("number", number)
        + wire.floats_entry("floats", struct.pack(f"<{len(floats)}f", *floats))
    )
    parsed = tf.train.Example.FromString(wire.example(entries)).features.feature
    assert list(parsed["strings"].bytes_list.value) == strings
    assert list(parsed["number"].int64_list.value) == [number]
    assert list(parsed["floats"].float_list.value) == floats
    assert parsed["strings"].WhichOneof("kind") == "bytes_list"


def test_a_list_holds_its_candidates_in_order_and_its_context():
    examples = [(wire.int_entry("rank", rank), wire.int_entry("other", 1)) for rank in range(300)]
    context = wire.example(wire.int_entry("time", 7))
    parsed = input_pb2.ExampleListWithContext.FromString(wire.list_with_context(context, examples))
    assert [each.features.feature["rank"].int64_list.value[0] for each in parsed.examples] == list(range(300))
    assert parsed.context.features.feature["time"].int64_list.value[0] == 7


def test_a_float_prefix_and_four_bytes_are_a_feature_of_one_float():
    entry = wire.float_prefix("price") + struct.pack("<f", 2.5)
    parsed = tf.train.Example.FromString(wire.example(entry))
    assert list(parsed.features.feature["price"].float_list.value) == [2.5]


def _write(folder, records, level):
    (folder / PARTS).mkdir(exist_ok=True, parents=True)
    with OutputFile(str(folder), "train/part", level) as file:
        for record in records:
            file.write(tfrecord(record))
    return folder / PARTS / file.info()["part"], file.info()


@pytest.mark.parametrize(("level", "compression"), [(0, ""), (4, "GZIP")])
def test_tensorflow_reads_the_records_and_their_checksums(tmp_path, level, compression):
    records = [b"", b"a", bytes(range(256)) * 50]
    path, info = _write(tmp_path, records, level)
    assert list(tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator()) == records
    assert info["records"] == 3
    assert info["bytes"] == path.stat().st_size


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, one = _write(tmp_path / "a", [b"x" * 1000], 4)
    second, two = _write(tmp_path / "b", [b"x" * 1000], 4)
    assert first.read_bytes() == second.read_bytes()
    assert one["sha256"] == two["sha256"]


@given(st.binary(max_size=3000))
def test_both_checksums_agree(data):
    google_crc32c = pytest.importorskip("google_crc32c")
    assert crc32c_numpy(data) == google_crc32c.value(data)
