from collections import Counter

import pytest

import psad_tf.beam.transforms.vocabularies as vocabularies
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import PARTS
from psad_tf.beam.transforms.vocabularies import WriteVocabularies
from psad_tf.data.encode_record import RecordEncoder
from tests.beam import logs
from tests.beam.logs import DECLARATION


@pytest.fixture(scope="module")
def lists():
    """The values of 60 lists with histories; many strings are equally frequent."""
    items = {f"item-{n}": {"genres": ["war", "drama", "документ"][: n % 4]} for n in range(20)}
    encoder = RecordEncoder(DECLARATION, items.get)
    past = [encoder.interaction(5, f"item-{n}", None) for n in range(5)]
    made = []
    for number in range(60):
        shown = [number % 19, (number * 7 + 1) % 19]
        data = logs.impression(number, number % 7, logs.START + number, {*shown, 19})
        made.append(encoder.encode(data, {"segment": "ab"[number % 2]}, past[: number % 5]))
    return made


def _expected(lists):
    counts = {name: Counter() for name in DECLARATION.vocabularies}
    for each in lists:
        for features, rows in (
            (DECLARATION.context_categorical, [each.context_categorical]),
            (DECLARATION.history.categorical, each.history_categorical),
            (DECLARATION.candidate_categorical, each.categorical),
        ):
            for row in rows:
                for feature, strings in zip(features, row, strict=True):
                    counts[feature.vocabulary].update(string for string in strings if string)
    return counts


def _written(folder, lists, **options):
    (folder / PARTS).mkdir()
    transform = WriteVocabularies(str(folder), DECLARATION, PreprocessOptions(**options))
    infos = logs.outputs(transform, folder, lists).elements[""]
    return {info["name"]: (folder / PARTS / info["part"]).read_bytes().splitlines() for info in infos}


@pytest.mark.parametrize(("min_count", "cap"), [(1, 10**6), (1, 3), (3, 10**6), (2, 7)])
def test_the_most_frequent_values_are_kept_exactly(tmp_path, lists, min_count, cap):
    found = _written(
        tmp_path, lists, vocabulary_min_count=min_count, max_vocabulary_size=cap, buffer_bytes=300
    )
    for name, counts in _expected(lists).items():
        ordered = sorted(counts, key=lambda value: (-counts[value], value))
        assert found[f"vocabularies/{name}.txt"] == [v for v in ordered if counts[v] >= min_count][:cap], name


def test_counts_passed_on_now_and_then_are_the_same(tmp_path, lists, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = _written(tmp_path / "a", lists)
    monkeypatch.setattr(vocabularies, "_WAITING", 5)
    assert _written(tmp_path / "b", lists) == whole
