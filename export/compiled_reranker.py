"""The serving graph's scoring compiled by XLA, on lists and batches padded to a few sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from psad_tf.export.served_reranker import Scored, ServedReranker
from psad_tf.features import (
    HISTORY_PREFIX,
    ITEM_ID,
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
)
from psad_tf.serving.contract import Limits

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class CompiledReranker(tf.Module):
    """Scores requests as a `ServedReranker` does, by one compiled operation; strings are looked up before.

    Args:
        served: What is compiled.
        declaration: The features.
        limits: How much the graph takes at once.
    """

    def __init__(self, served: ServedReranker, declaration: FeatureDeclaration, limits: Limits) -> None:
        super().__init__(name="compiled_reranker")
        self.served = served
        self._limits = limits
        history = declaration.history
        self._of_context = _names(declaration.context_categorical, declaration.context_dense)
        self._of_history = _names(history.categorical, history.dense, HISTORY_PREFIX)
        self._of_candidates = _names(declaration.candidate_categorical, declaration.candidate_dense)
        self._score = tf.function(served, jit_compile=True, autograph=False)

    def __call__(self, raw: Mapping[str, tf.Tensor], blocked: tf.Tensor | None) -> Scored:
        """Scores a request; see `ServedReranker`."""
        lists, length = tf.unstack(tf.shape(raw[ITEM_ID])[:2])
        past = self._limits.history_length
        more_lists = _next_size(lists, _BATCH_SIZES) - lists
        more_candidates = _next_size(length, self._limits.list_sizes) - length
        more_past = tf.maximum(past - tf.shape(raw[HISTORY_PREFIX + ITEM_ID])[1], 0)

        def padded(values: tf.Tensor, *more: tf.Tensor) -> tf.Tensor:
            ends = [more_lists, *more, *[0] * (values.shape.rank - 1 - len(more))]
            return tf.pad(values, [[0, end] for end in ends])

        found = self.served.encoder.lookup(raw)
        inputs = {name: padded(found[name]) for name in self._of_context}
        inputs |= {name: padded(found[name][:, :past], more_past) for name in self._of_history}
        inputs |= {name: padded(found[name], more_candidates) for name in self._of_candidates}
        scored = self._score(inputs, None if blocked is None else padded(blocked, more_candidates))
        return Scored(*(each[:lists, :length] for each in scored))


def _names(
    categorical: Sequence[CategoricalFeature], dense: Sequence[DenseFeature], prefix: str = ""
) -> list[str]:
    return [prefix + name for name in (*(each.name for each in categorical), *(each.name for each in dense))]


def _next_size(size: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    """The smallest of `sizes` that is at least `size`; above the largest, its next multiple."""
    steps = tf.constant(sizes)
    index = tf.searchsorted(steps, size[tf.newaxis])[0]
    multiple = -(-size // sizes[-1]) * sizes[-1]
    return tf.where(index < len(sizes), tf.gather(steps, tf.minimum(index, len(sizes) - 1)), multiple)
