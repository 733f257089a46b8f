"""Which declared features were seen: one that occurs in no record at all is a mistake of the declaration."""

from __future__ import annotations

from typing import Any

from psad_tf.beam.transforms.encode import EncodedList, Past
from psad_tf.features import AGE_SECONDS, HISTORY_PREFIX, FeatureDeclaration

LABEL = "label"


class Presence:
    """Takes note of the features that have a value in some list or interaction.

    What was seen once is not looked for again, so a list costs next to nothing.

    Attributes:
        present: Names on the wire of the features seen, and `label` where a graded feedback was.
    """

    def __init__(self, declaration: FeatureDeclaration) -> None:
        self._context = dict(enumerate(feature.name for feature in declaration.context_categorical))
        self._context_dense = dict(enumerate(feature.name for feature in declaration.context_dense))
        self._candidate = dict(enumerate(feature.name for feature in declaration.candidate_categorical))
        self._candidate_dense = dict(enumerate(feature.name for feature in declaration.candidate_dense))
        history = declaration.history
        feedback = [feature.name for feature in history.dense if feature.name != AGE_SECONDS]
        self._history = {
            index: HISTORY_PREFIX + feature.name for index, feature in enumerate(history.categorical)
        }
        self._feedback = {index: HISTORY_PREFIX + name for index, name in enumerate(feedback)}
        self._label_names = frozenset(rule.feedback for rule in declaration.label.grades)
        self._label_absent = True
        self.present: list[str] = []

    @property
    def history_absent(self) -> bool:
        """True while some history feature has not been seen."""
        return bool(self._history or self._feedback)

    def see_past(self, past: Past) -> None:
        """Notes the history features of an interaction."""
        self._found(self._history, [index for index in self._history if any(past.view.history_values[index])])
        self._found(
            self._feedback,
            [index for index in self._feedback if past.feedback[index] == past.feedback[index]],
        )

    def see_list(self, data: dict[str, Any], encoded: EncodedList) -> None:
        """Notes the context's, the candidates' and the label's features of a list."""
        if self._context:
            self._found(self._context, [i for i in self._context if any(encoded.context_values[i])])
        if self._context_dense:
            values = encoded.context_dense
            self._found(self._context_dense, [i for i in self._context_dense if values[i] == values[i]])
        if self._candidate:
            rows = [*(view.values for view in encoded.views), *encoded.candidate_values]
            self._found(self._candidate, [i for i in self._candidate if any(any(row[i]) for row in rows)])
        if self._candidate_dense:
            dense = encoded.candidate_dense
            self._found(
                self._candidate_dense,
                [i for i in self._candidate_dense if any(row[i] == row[i] for row in dense)],
            )
        if self._label_absent:
            shown = [candidate.get("feedback") for candidate in data["candidates"]]
            shown += (data.get("feedback") or {}).values()
            if any(feedback and not self._label_names.isdisjoint(feedback) for feedback in shown):
                self._label_absent = False
                self.present.append(LABEL)

    def _found(self, absent: dict[int, str], indices: list[int]) -> None:
        for index in indices:
            self.present.append(absent.pop(index))
