import os
import random
import tempfile

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from psad_tf.beam.transforms import sort_values
from psad_tf.beam.transforms.sort_values import SortValues, sorted_values
from tests.beam import logs


def _values(count):
    rng = random.Random(count)
    return [rng.randbytes(rng.randrange(40)) for _ in range(count)]


@pytest.fixture
def spill_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("buffer_bytes", [1, 100, 5_000, 1 << 20])
def test_values_come_sorted_however_small_the_buffer(spill_folder, buffer_bytes):
    values = _values(1_000)
    found = sorted_values(iter(values), buffer_bytes)
    assert list(found) == sorted(values)
    assert list(found) == sorted(values), "a second time"


def test_few_files_are_open_at_once(spill_folder, monkeypatch):
    monkeypatch.setattr(sort_values, "_MAX_RUNS", 3)
    values = _values(500)
    found = sorted_values(values, 600)
    assert list(found) == sorted(values)
    assert len(list(spill_folder.glob("*/*"))) <= 3


def test_what_fits_is_not_written_and_what_is_written_goes_away(spill_folder):
    assert list(sorted_values([b"b", b"a"])) == [b"a", b"b"]
    assert os.listdir(spill_folder) == []
    found = sorted_values(_values(100), 200)
    assert len(os.listdir(spill_folder)) == 1
    iterator = iter(found)
    del found
    next(iterator)
    iterator.close()
    del iterator
    assert os.listdir(spill_folder) == []


def test_as_a_transform_it_sorts_each_keys_values():
    values = {key: _values(20 + key) for key in range(5)}
    keyed = [(key, value) for key, each in values.items() for value in each]
    random.Random(0).shuffle(keyed)
    with logs.pipeline() as pipeline:
        grouped = pipeline | beam.Create(keyed).with_output_types(tuple[int, bytes]) | beam.GroupByKey()
        found = grouped | SortValues(200) | beam.MapTuple(lambda key, each: (key, list(each)))
        assert_that(found, equal_to([(key, sorted(each)) for key, each in values.items()]))
