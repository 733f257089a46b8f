"""The serving graph's scoring and ranking compiled by XLA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from psad_tf.export.served_reranker import Ranked, ServedReranker
from psad_tf.features import (
    HISTORY_PREFIX,
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
)


class CompiledReranker(tf.Module):
    """Ranks requests as a `ServedReranker` does, by one compiled operation; strings are looked up before.

    Each new number of lists or candidates is compiled anew (see `Padding`); histories are cut and padded to
    the declared length here.

    Args:
        served: What is compiled.
        declaration: The features.
    """

    def __init__(self, served: ServedReranker, declaration: FeatureDeclaration) -> None:
        super().__init__(name="compiled_reranker")
        self.served = served
        history, self._length = declaration.history, declaration.history.length
        self._history = _Columns(HISTORY_PREFIX, history.categorical, history.dense)
        self._context = _Columns("", declaration.context_categorical, declaration.context_dense)
        self._candidates = _Columns("", declaration.candidate_categorical, declaration.candidate_dense)
        self._compiled = tf.function(self.rank_packed, jit_compile=True, autograph=False)

    def __call__(self, raw: Mapping[str, tf.Tensor], sizes: tf.Tensor, blocked: tf.Tensor | None) -> Ranked:
        """Ranks a request; see `ServedReranker`."""
        return self._compiled(*self.packed(self.served.encoder.lookup(raw)), blocked)

    def packed(
        self, found: Mapping[str, tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        """What is handed to the compiled part of a request whose strings are looked up."""
        past = [_fitted(each, self._length, axis) for axis, each in enumerate(self._history.packed(found), 1)]
        return self._context.packed(found), past, self._candidates.packed(found)

    def rank_packed(
        self,
        context: Sequence[tf.Tensor],
        past: Sequence[tf.Tensor],
        candidates: Sequence[tf.Tensor],
        blocked: tf.Tensor | None,
    ) -> Ranked:
        """What is compiled: ranks what `packed` gives."""
        raw = self._context.unpacked(context) | self._history.unpacked(past)
        lists = tf.shape(past[0])[0]
        rows = tf.size(candidates[0]) // candidates[0].shape[-1]
        sizes = tf.stack([lists, rows // lists])
        return self.served(raw | self._candidates.unpacked(candidates), sizes, blocked)


def _fitted(values: tf.Tensor, length: int, axis: int) -> tf.Tensor:
    """Three dimensions, one of them cut or padded with zeros to a length."""
    ends = [[0, length if each == axis else 0] for each in range(3)]
    return tf.slice(tf.pad(values, ends), [0, 0, 0], [length if each == axis else -1 for each in range(3)])


class _Columns:
    """The features of a part of the request side by side: each input costs a compiled operation time."""

    def __init__(
        self, prefix: str, categorical: Sequence[CategoricalFeature], dense: Sequence[DenseFeature]
    ) -> None:
        self._widths = {prefix + each.name: each.width for each in categorical}
        self._dense = [prefix + each.name for each in dense]

    def packed(self, found: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """Ids [..., sum of the widths] and numbers [features, ...], where there are any."""
        ids = [tf.concat([found[name] for name in self._widths], -1)] if self._widths else []
        return [*ids, tf.stack([found[name] for name in self._dense])] if self._dense else ids

    def unpacked(self, packed: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """The features by name again."""
        raw: dict[str, tf.Tensor] = {}
        if self._widths:
            raw |= zip(self._widths, tf.split(packed[0], list(self._widths.values()), -1), strict=True)
        if self._dense:
            raw |= zip(self._dense, tf.unstack(packed[-1]), strict=True)
        return raw
