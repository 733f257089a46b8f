"""How good the initial ranker's order is, measured while the lists pass by on their way to disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_ranking as tfr

from psad_tf.data.records import Candidate, Impression
from psad_tf.features import SPLITS, LabelDeclaration

_BATCH = 512
_PADDING_LABEL = -1.0


def relevance(candidate: Candidate, label: LabelDeclaration) -> int:
    """The largest grade of a rule that the candidate's feedback satisfies, else 0."""
    return max(
        (
            rule.grade
            for rule in label.grades
            if rule.feedback in candidate.feedback and candidate.feedback[rule.feedback] >= rule.at_least
        ),
        default=0,
    )


class InitialOrderMeter:
    """NDCG of the initial order, by TensorFlow Ranking, a split at a time.

    The gain is 2^relevance - 1; lists without a relevant item are left out. Lists without a split are
    counted under `all`.

    Args:
        label: How feedback becomes relevance.
        top: NDCG@top.
    """

    def __init__(self, label: LabelDeclaration, top: int = 10) -> None:
        self._label = label
        self._metrics: dict[str, tf.keras.metrics.Metric] = {}
        self._waiting: dict[str, list[list[int]]] = {}
        self.top = top
        self.lists: dict[str, int] = {}
        self.lists_with_relevant: dict[str, int] = {}

    def watch(self, impressions: Iterable[Impression]) -> Iterator[Impression]:
        """Passes the impressions on unchanged, and takes each into the measurement."""
        for impression in impressions:
            split = impression.split or "all"
            self.lists[split] = self.lists.get(split, 0) + 1
            labels = [relevance(candidate, self._label) for candidate in impression.shown()]
            if any(labels):
                self.lists_with_relevant[split] = self.lists_with_relevant.get(split, 0) + 1
                waiting = self._waiting.setdefault(split, [])
                waiting.append(labels)
                if len(waiting) == _BATCH:
                    self._update(split)
            yield impression

    def results(self) -> dict[str, float]:
        """Split -> mean NDCG@top of the lists that have a relevant item."""
        for split in self._waiting:
            self._update(split)
        ordered = [split for split in (*SPLITS, "all") if split in self._metrics]
        return {split: float(self._metrics[split].result()) for split in ordered}

    def _update(self, split: str) -> None:
        lists = self._waiting[split]
        if not lists:
            return
        max_length = max(map(len, lists))
        labels = np.full((len(lists), max_length), _PADDING_LABEL, np.float32)
        for row, values in enumerate(lists):
            labels[row, : len(values)] = values
        scores = np.broadcast_to(-np.arange(max_length, dtype=np.float32), labels.shape)
        if split not in self._metrics:
            self._metrics[split] = tfr.keras.metrics.NDCGMetric(topn=self.top)
        # The metric weighs lists by their labels' sum unless told otherwise.
        self._metrics[split].update_state(labels, scores, sample_weight=np.ones((len(lists), 1), np.float32))
        self._waiting[split] = []
