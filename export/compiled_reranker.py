"""The serving graph's scoring and ranking compiled by XLA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from psad_tf.data.encoder import fitted
from psad_tf.export.served_reranker import Ranked, ServedReranker
from psad_tf.features import (
    HISTORY_PREFIX,
    ITEM_ID,
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
        """Ranks a request; see `ServedReranker`. The compiled part reads `sizes` off what it is handed."""
        return self._compiled(*self.packed(self.served.encoder.lookup(raw)), blocked)

    def packed(
        self, found: Mapping[str, tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        """What is handed to the compiled part of a request whose strings are looked up."""
        past = self._history.packed(found)  # ids [b, h, width], numbers [features, b, h]
        past = [fitted(each, self._length, 0, axis) for axis, each in enumerate(past, 1)]
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
        raw |= self._candidates.unpacked(candidates)
        lists = tf.shape(past[0])[0]
        return self.served(raw, tf.stack([lists, tf.size(raw[ITEM_ID]) // lists]), blocked)


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
