"""Raw tensors to model tensors: ids by vocabulary lookup, dense values standardized.

The same `FeatureEncoder` runs in front of the exported model, so training and serving cannot drift
apart. Encoded tensors hold no strings, so everything after them compiles under XLA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import tensorflow as tf

from psad_tf.errors import InputError
from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    ITEM_ID,
    NEGATIVE,
    PADDING_ID,
    RELEVANCE,
    SHOWN_POSITION,
    UNKNOWN_ID,
    CategoricalFeature,
    FeatureDeclaration,
)

LARGEST_STANDARDIZED = 10.0


class FeatureEncoder(tf.Module):
    """Raw tensors to model tensors: ids by vocabulary lookup, dense values standardized.

    id(v) = 0 for "", 2 + line of v in its vocabulary, 1 if not in it;
    dense(x) = clip((f(x) - mean) / std, -10, 10), f the identity or log(1 + max(x, 0)), 0 if missing.

    Args:
        declaration: The features.
        vocabulary_dir: Folder of `<vocabulary>.txt` files; they become assets of a SavedModel.
        statistics: mean and std by dense key, as in `statistics.json`.

    Raises:
        InputError: A vocabulary file or the statistics of a declared feature are missing.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        vocabulary_dir: str | os.PathLike[str],
        statistics: Mapping[str, Mapping[str, float]],
    ) -> None:
        super().__init__(name="feature_encoder")
        self.declaration = declaration
        self.vocabulary_sizes: dict[str, int] = {}
        self._tables: dict[str, tf.lookup.StaticHashTable | None] = {}
        for vocabulary in declaration.vocabularies:
            path = os.path.join(os.fspath(vocabulary_dir), f"{vocabulary}.txt")
            if not os.path.isfile(path):
                raise InputError(f"{path}: no such vocabulary file")
            with open(path, "rb") as file:
                lines = sum(1 for _ in file)
            self.vocabulary_sizes[vocabulary] = lines + 2
            self._tables[vocabulary] = _lookup_table(path) if lines else None
        self._moments: dict[str, tuple[float, float]] = {}
        for key in declaration.dense_keys:
            try:
                moments = statistics[key]
                self._moments[key] = (float(moments["mean"]), float(moments["std"]))
            except (KeyError, TypeError, ValueError):
                raise InputError(f"statistics: no mean and std of the declared feature {key!r}") from None
            if not self._moments[key][1] > 0.0:
                raise InputError(f"statistics: {key}: std must be positive, got {self._moments[key][1]}")

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes a batch.

        Args:
            raw: What `parse_lists` gives; labels may be absent.

        Returns:
            Categorical features by name on the wire, int32, shapes kept; `context_dense` [batch, Dc],
            `history_dense` [batch, H, Dh], `candidate_dense` [batch, N, Dn], float32; `history_mask`
            bool [batch, H]; `mask` bool [batch, N], false at padding; `initial_rank` int32 [batch, N].
            With `relevance` in `raw` also `shown_position` int32 [batch, N], -1 at padding and where the
            candidate was not shown, and `labels` and `negatives`, float32 [batch, N], 0 where it is -1.
            A list without any position was shown whole, in the candidates' order.
        """
        declaration = self.declaration
        encoded: dict[str, tf.Tensor] = {}
        for feature in declaration.context_categorical:
            encoded[feature.name] = self._ids(raw[feature.name], feature)
        for feature in declaration.history.categorical:
            name = HISTORY_PREFIX + feature.name
            encoded[name] = self._ids(raw[name], feature)
        for feature in declaration.candidate_categorical:
            encoded[feature.name] = self._ids(raw[feature.name], feature)
        item_ids = raw[ITEM_ID][..., 0]
        encoded["mask"] = mask = tf.not_equal(item_ids, "")
        encoded["history_mask"] = tf.not_equal(raw[HISTORY_PREFIX + ITEM_ID][..., 0], "")
        context, history, candidate = (
            [(f.name, f.transform) for f in declaration.context_dense],
            [(HISTORY_PREFIX + f.name, f.transform) for f in declaration.history.dense],
            [(f.name, f.transform) for f in declaration.candidate_dense],
        )
        encoded["context_dense"] = self._dense(raw, context, tf.shape(item_ids)[:1])
        encoded["history_dense"] = self._dense(raw, history, tf.shape(encoded["history_mask"]))
        encoded["candidate_dense"] = self._dense(raw, candidate, tf.shape(item_ids))
        positions = tf.broadcast_to(tf.range(tf.shape(item_ids)[1]), tf.shape(item_ids))
        ranks = tf.cast(raw[INITIAL_RANK], tf.int32)
        encoded[INITIAL_RANK] = tf.where(ranks >= 0, ranks, positions)
        if RELEVANCE in raw:
            encoded[SHOWN_POSITION] = shown_slots(raw[SHOWN_POSITION], mask)
            shown = encoded[SHOWN_POSITION] >= 0
            encoded["labels"] = tf.where(shown, tf.maximum(raw[RELEVANCE], 0.0), 0.0)
            encoded["negatives"] = tf.where(shown, raw[NEGATIVE], 0.0)
        return encoded

    def _ids(self, values: tf.Tensor, feature: CategoricalFeature) -> tf.Tensor:
        table = self._tables[feature.vocabulary]
        if table is None:
            found = tf.fill(tf.shape(values), tf.constant(UNKNOWN_ID, tf.int64))
        else:
            found = table.lookup(values) + 2
        ids = tf.cast(tf.where(tf.equal(values, ""), tf.constant(PADDING_ID, tf.int64), found), tf.int32)
        return tf.ensure_shape(ids, values.shape)

    def _dense(
        self, raw: Mapping[str, tf.Tensor], features: Sequence[tuple[str, str]], shape: tf.Tensor
    ) -> tf.Tensor:
        if not features:
            return tf.zeros(tf.concat([shape, [0]], 0))
        columns = []
        for name, transform in features:
            values = raw[name]
            if transform == "log1p_standardize":
                values = tf.math.log1p(tf.maximum(values, 0.0))  # NaN stays NaN
            if transform != "none":
                mean, std = self._moments[name]
                values = (values - mean) / std
                values = tf.clip_by_value(values, -LARGEST_STANDARDIZED, LARGEST_STANDARDIZED)
            columns.append(tf.where(tf.math.is_nan(values), 0.0, values))
        return tf.stack(columns, -1)


def shown_slots(positions: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The slot in which each candidate was shown; a list without any was shown in the candidates' order.

    Args:
        positions: int [batch, n], `shown_position` as it stands in the records.
        mask: bool [batch, n].

    Returns:
        int32 [batch, n], -1 at padding and where the candidate was not shown.

    >>> shown_slots(tf.constant([[-1, 0, -1], [-1, -1, -1]]), tf.constant([[True] * 3, [True, True, False]]))
    <tf.Tensor: shape=(2, 3), dtype=int32, numpy=
    array([[-1,  0, -1],
           [ 0,  1, -1]], dtype=int32)>
    """
    given = tf.where(mask, tf.cast(positions, tf.int32), -1)
    some = tf.reduce_any(given >= 0, -1, keepdims=True)
    in_order = tf.broadcast_to(tf.range(tf.shape(mask)[1]), tf.shape(mask))
    return tf.where(mask, tf.where(some, given, in_order), -1)


def _lookup_table(path: str) -> tf.lookup.StaticHashTable:
    """value -> line number, -1 for values that the file lacks."""
    initializer = tf.lookup.TextFileInitializer(
        path,
        key_dtype=tf.string,
        key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN_ID - 2)
