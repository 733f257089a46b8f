import random

import pytest

from psad_tf.beam.sorted_runs import RunWriter, merge_runs, read_run


def _write(folder, entries, buffer_bytes):
    writer = RunWriter(str(folder), "run", buffer_bytes)
    for partition, key, value in entries:
        writer.add(partition, key, value)
    return writer.close()


@pytest.fixture
def entries():
    rng = random.Random(1)
    return [
        (rng.randrange(3), rng.randbytes(rng.randrange(0, 5)), rng.randbytes(rng.randrange(0, 300)))
        for _ in range(2000)
    ]


@pytest.mark.parametrize("fan_in", [2, 5, 1000])
def test_runs_merge_to_the_sorted_entries_of_each_partition(tmp_path, entries, fan_in):
    runs = _write(tmp_path, entries, buffer_bytes=20_000)
    assert len(runs) > 20
    for partition in range(3):
        own = [run for number, run in runs if number == partition]
        expected = sorted((key, value) for number, key, value in entries if number == partition)
        assert list(merge_runs(own, fan_in)) == expected
        assert sum(run.records for run in own) == len(expected)


def test_one_buffer_makes_one_file_that_holds_every_partition(tmp_path, entries):
    runs = _write(tmp_path, entries, buffer_bytes=1 << 30)
    assert sorted(partition for partition, _ in runs) == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_entries_make_no_file(tmp_path):
    assert _write(tmp_path, [], 1) == []
    assert list(merge_runs([])) == []
    assert not list(tmp_path.iterdir())


def test_an_entry_larger_than_a_block_comes_back_whole(tmp_path):
    large = bytes(range(256)) * 4000
    ((_, run),) = _write(tmp_path, [(0, b"b", large), (0, b"a", b"")], 1 << 30)
    assert list(read_run(run)) == [(b"a", b""), (b"b", large)]


def test_a_cut_run_is_an_error_and_not_a_shorter_stream(tmp_path):
    ((_, run),) = _write(tmp_path, [(0, b"key", b"value" * 100)], 1 << 30)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(OSError, match="7 bytes are missing"):
        list(read_run(run))


def test_a_failed_try_leaves_nothing_that_the_next_one_reads(tmp_path):
    abandoned = RunWriter(str(tmp_path), "run", buffer_bytes=1)
    abandoned.add(0, b"half", b"")
    runs = _write(tmp_path, [(0, b"whole", b"")], 1 << 30)
    assert len(list(tmp_path.iterdir())) == 2
    assert list(merge_runs([run for _, run in runs])) == [(b"whole", b"")]
