"""Vocabularies: how often each value occurs in training lists, the most frequent first, exact at any size.

No step holds a whole vocabulary: counts are added up by value, and sorted by count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.output_file import OutputFile
from psad_tf.beam.transforms.sort_values import SortValues
from psad_tf.data.encode_record import ListValues, Strings
from psad_tf.features import FeatureDeclaration

VOCABULARY_NAME = "vocabularies/{}.txt"
_MAX_COUNT = (1 << 64) - 1
_WAITING = 100_000


class WriteVocabularies(beam.PTransform):
    """Lists' values -> what the manifest says of `vocabularies/<name>.txt`.

    Args:
        folder: The output folder.
        declaration: The features.
        options: The job's options: the least count, and the most values to keep.
    """

    def __init__(self, folder: str, declaration: FeatureDeclaration, options: PreprocessOptions) -> None:
        super().__init__()
        self._folder = folder
        self._declaration = declaration
        self._names = declaration.vocabularies
        self._options = options

    def expand(self, lists: beam.PCollection) -> beam.PCollection:
        least = self._options.vocabulary_min_count
        return (
            lists
            | "Count" >> beam.ParDo(CountValues(self._declaration)).with_output_types(tuple[bytes, int])
            | "Add up" >> beam.CombinePerKey(sum)
            | "Frequent" >> beam.Filter(lambda counted: counted[1] >= least)
            | "Rank" >> beam.MapTuple(_ranked).with_output_types(tuple[int, bytes])
            | "By vocabulary" >> beam.GroupByKey()
            | "Sort" >> SortValues(self._options.buffer_bytes)
            | "Write" >> beam.MapTuple(self._write)
        )

    def _write(self, vocabulary: int, ranked: Iterator[bytes]) -> dict[str, Any]:
        with OutputFile(self._folder, VOCABULARY_NAME.format(self._names[vocabulary])) as file:
            for value in ranked:
                if file.records == self._options.vocabulary_cap:
                    break
                file.write(value[8:] + b"\n")
        return file.info()


class CountValues(beam.DoFn):
    """Lists' values -> (number of the vocabulary in 2 bytes and value, count).

    The strings of an item are counted together, and apart only when the counts are passed on: a list costs
    one addition for an item and not one for every string.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        numbers = {name: index.to_bytes(2, "big") for index, name in enumerate(declaration.vocabularies)}
        self._vocabularies = [
            [numbers[feature.vocabulary] for feature in features]
            for features in (
                declaration.context_categorical,
                declaration.history.categorical,
                declaration.candidate_categorical,
            )
        ]

    def start_bundle(self) -> None:
        self._counts: tuple[Counter[tuple[Strings, ...]], ...] = (Counter(), Counter(), Counter())

    def process(self, values: ListValues) -> Iterator[tuple[bytes, int]]:
        context, history, candidates = self._counts
        context[tuple(values.context_categorical)] += 1
        history.update(values.history_categorical)
        candidates.update(values.categorical)
        if len(context) + len(history) + len(candidates) > _WAITING:
            yield from self._passed_on()

    def finish_bundle(self) -> Iterable[WindowedValue]:
        window = GlobalWindow()
        return [WindowedValue(each, window.max_timestamp(), (window,)) for each in self._passed_on()]

    def _passed_on(self) -> Iterator[tuple[bytes, int]]:
        total: Counter[bytes] = Counter()
        for vocabularies, counter in zip(self._vocabularies, self._counts, strict=True):
            for rows, times in counter.items():
                for vocabulary, strings in zip(vocabularies, rows, strict=True):
                    for string in strings:
                        if string:
                            total[vocabulary + string] += times
            counter.clear()
        yield from total.items()


def _ranked(value: bytes, count: int) -> tuple[int, bytes]:
    """By vocabulary; the largest count sorts first, equal counts by value."""
    return int.from_bytes(value[:2], "big"), (_MAX_COUNT - count).to_bytes(8, "big") + value[2:]
