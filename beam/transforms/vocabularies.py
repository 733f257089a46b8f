"""Vocabularies: how often each value occurs in training lists, the most frequent first, exact at any size.

Counts are added up by value, sorted, and sorted again by count: no step holds a whole vocabulary.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from psad_tf.beam.messages import Handler, Message, Step, messages, of_topic, partition_of, report
from psad_tf.beam.sorted_runs import RunWriter, merge_runs
from psad_tf.beam.transforms.encode import EncodedList, ListEncoder, Past
from psad_tf.beam.writers import OutputFile
from psad_tf.features import FeatureDeclaration

COUNTS = "value_counts"
RANKED = "ranked_values"
VOCABULARY_NAME = "vocabularies/{}.txt"
_COUNT = struct.Struct(">Q")
_HEAD = struct.Struct(">HQ")
_MOST = (1 << 64) - 1
_WAITING = 100_000


class ValueCounter:
    """Counts the strings of training lists, in bounded memory.

    Items are counted as items, and their attributes' values only when the counts are sent: a list costs two
    additions for an item and not one for every value.

    Args:
        folder: Where sorted runs are written.
        declaration: The features.
        encoder: Gives an item's strings.
        partitions: How many partitions values are spread over.
    """

    def __init__(
        self, folder: str, declaration: FeatureDeclaration, encoder: ListEncoder, partitions: int
    ) -> None:
        numbers = {name: index for index, name in enumerate(declaration.vocabularies)}
        self._context = [numbers[feature.vocabulary] for feature in declaration.context_categorical]
        self._candidate = [numbers[feature.vocabulary] for feature in declaration.candidate_categorical]
        self._history = [numbers[feature.vocabulary] for feature in declaration.history.categorical]
        self._encoder = encoder
        self._partitions = partitions
        self._writer = RunWriter(folder, "values", buffer_bytes=16 << 20)
        self._shown: Counter[str] = Counter()
        self._past: Counter[str] = Counter()
        self._values: Counter[tuple[int, str]] = Counter()

    def add(self, encoded: EncodedList, history: Iterable[Past]) -> None:
        """Counts the strings of one training list."""
        self._shown.update(encoded.plain_items)
        self._past.update([past.item_id for past in history])
        values = self._values
        for vocabulary, found in zip(self._context, encoded.context_values, strict=True):
            for value in found:
                values[vocabulary, value] += 1
        for candidate in encoded.candidate_values:
            _count(values, self._candidate, candidate, 1)
        if len(self._shown) + len(self._past) + len(values) > _WAITING:
            self._send()

    def close(self) -> Iterable[Message]:
        """The runs of counts, by value."""
        self._send()
        yield from messages(COUNTS, self._writer.close())

    def _send(self) -> None:
        for item_id, times in self._shown.items():
            _count(self._values, self._candidate, self._encoder.item(item_id).values, times)
        for item_id, times in self._past.items():
            _count(self._values, self._history, self._encoder.item(item_id).history_values, times)
        for (vocabulary, value), times in self._values.items():
            if value:
                key = vocabulary.to_bytes(2, "big") + value.encode()
                self._writer.add(partition_of(key, self._partitions), key, _COUNT.pack(times))
        for counter in (self._shown, self._past, self._values):
            counter.clear()


def _count(
    values: Counter[tuple[int, str]],
    vocabularies: Sequence[int],
    found: Sequence[tuple[str, ...]],
    times: int,
) -> None:
    for vocabulary, strings in zip(vocabularies, found, strict=True):
        for value in strings:
            values[vocabulary, value] += times


class RankValues(Step):
    """Runs of counts -> runs of values by vocabulary, the most frequent first.

    Args:
        folder: Where sorted runs are written.
        min_count: Values seen less often are left out.
    """

    def __init__(self, folder: str, min_count: int) -> None:
        super().__init__(_RankValues(folder, min_count))


class _RankValues(Handler):
    topics = (COUNTS,)

    def __init__(self, folder: str, min_count: int) -> None:
        self._folder = folder
        self._min_count = min_count

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        writer = RunWriter(self._folder, "ranked", buffer_bytes=16 << 20)
        last, total = b"", 0

        def rank() -> None:
            if total >= self._min_count:
                # Keys sort upwards: the largest count has the smallest key; equal counts sort by value.
                head = last[:2] + _COUNT.pack(_MOST - total)
                writer.add(int.from_bytes(last[:2], "big"), head + last[2:], b"")

        for key, value in merge_runs(of_topic(received, COUNTS)):
            if key != last:
                if last:
                    rank()
                last, total = key, 0
            total += _COUNT.unpack(value)[0]
        if last:
            rank()
        yield from messages(RANKED, writer.close())


class WriteVocabularies(Step):
    """Runs of ranked values -> `vocabularies/<name>.txt`.

    Args:
        folder: The output folder.
        names: The vocabularies' names, by number.
        cap: The most values a vocabulary keeps.
    """

    def __init__(self, folder: str, names: Sequence[str], cap: int) -> None:
        super().__init__(_WriteVocabularies(folder, names, cap))


class _WriteVocabularies(Handler):
    topics = (RANKED,)

    def __init__(self, folder: str, names: Sequence[str], cap: int) -> None:
        self._folder = folder
        self._names = names
        self._cap = cap

    def handle(self, partition: int, received: list[tuple[str, Any]]) -> Iterable[Message]:
        values = merge_runs(of_topic(received, RANKED))
        with OutputFile(self._folder, VOCABULARY_NAME.format(self._names[partition])) as file:
            for key, _ in values:
                if file.records == self._cap:
                    break
                file.write(key[_HEAD.size :] + b"\n")
        yield report("file", file.info())
