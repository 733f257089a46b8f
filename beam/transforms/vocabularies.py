"""Vocabularies: how often each value occurs in training lists, the most frequent first, exact at any size.

No step holds a whole vocabulary: counts are added up by value, and sorted by count.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import OutputFile
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.encode_record import ListValues
from psad_tf.features import FeatureDeclaration

VOCABULARY_NAME = "vocabularies/{}.txt"
_MAX_COUNT = (1 << 64) - 1
_WAITING = 1 << 14  # rows of an item or a user: some 10 MB


@beam.ptransform_fn
def WriteVocabularies(
    lists: beam.PCollection, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions
) -> beam.PCollection:
    """Training lists' values -> what the manifest says of `vocabularies/<name>.txt`."""
    return (
        lists
        | "Count" >> beam.ParDo(CountValues(declaration)).with_output_types(tuple[tuple[str, bytes], int])
        # Counted already: `CombinePerKey` would keep up to a million sums in a worker's memory.
        | "By value" >> beam.GroupByKey()
        | "Add up" >> beam.MapTuple(lambda value, counts: (value, sum(counts)))
        | "Frequent" >> beam.Filter(lambda counted: counted[1] >= options.vocabulary_min_count)
        | "Rank" >> beam.MapTuple(_ranked).with_output_types(tuple[str, bytes])
        | "By vocabulary" >> beam.GroupByKey()
        | "Sort" >> SortValues(options.buffer_bytes)
        | "Write" >> beam.MapTuple(lambda name, each: _write(name, each, folder, options.max_vocabulary_size))
    )


class CountValues(beam.DoFn):
    """Lists' values -> ((name of the vocabulary, value), count).

    The strings of an item are counted together, and apart only when the counts are passed on: a list costs
    one addition for an item and not one for every string.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        groups = (
            declaration.context_categorical,
            declaration.history.categorical,
            declaration.candidate_categorical,
        )
        self._vocabularies = [[feature.vocabulary for feature in features] for features in groups]

    def start_bundle(self) -> None:
        self._counts: tuple[Counter[Any], ...] = (Counter(), Counter(), Counter())

    def process(self, values: ListValues) -> Iterable[tuple[tuple[str, bytes], int]]:
        context, history, candidates = self._counts
        context[tuple(values.context_categorical)] += 1
        history.update(values.history_categorical)
        candidates.update(values.categorical)
        return self._passed_on() if sum(map(len, self._counts)) > _WAITING else ()

    def finish_bundle(self) -> Iterator[Any]:
        return map(GlobalWindows.windowed_value_at_end_of_window, self._passed_on())

    def _passed_on(self) -> Iterable[tuple[tuple[str, bytes], int]]:
        total: Counter[tuple[str, bytes]] = Counter()
        for vocabularies, counter in zip(self._vocabularies, self._counts, strict=True):
            for rows, times in counter.items():
                for vocabulary, strings in zip(vocabularies, rows, strict=True):
                    for string in filter(None, strings):
                        total[vocabulary, string] += times
            counter.clear()
        return total.items()


def _ranked(value: tuple[str, bytes], count: int) -> tuple[str, bytes]:
    """By vocabulary; the largest count sorts first, equal counts by value."""
    return value[0], (_MAX_COUNT - count).to_bytes(8, "big") + value[1]


def _write(vocabulary: str, ranked: Iterable[bytes], folder: str, cap: int) -> dict[str, Any]:
    with OutputFile(folder, VOCABULARY_NAME.format(vocabulary)) as file:
        for value in itertools.islice(ranked, cap):
            file.write(value[8:] + b"\n")
    return file.info()
