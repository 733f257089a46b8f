import pytest
import tensorflow as tf

from psad_tf.beam.output_file import PARTS, OutputFile


def _write(folder, records, level):
    (folder / PARTS).mkdir(exist_ok=True, parents=True)
    with OutputFile(str(folder), "train/part", level) as file:
        for record in records:
            file.write_tfrecord(record)
    return folder / PARTS / file.info()["part"], file.info()


@pytest.mark.parametrize(("level", "compression"), [(0, ""), (1, "GZIP"), (3, "GZIP")])
def test_tensorflow_reads_the_records_and_their_checksums(tmp_path, level, compression):
    records = [b"", b"a", bytes(range(256)) * 5000]
    path, info = _write(tmp_path, records, level)
    assert list(tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator()) == records
    assert info["records"] == 3
    assert info["bytes"] == path.stat().st_size


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, one = _write(tmp_path / "a", [b"x" * 1000], 1)
    second, two = _write(tmp_path / "b", [b"x" * 1000], 1)
    assert first.read_bytes() == second.read_bytes()
    assert one["sha256"] == two["sha256"]
