"""Raw tensors to model tensors: ids by vocabulary lookup, dense values standardized.

The same `FeatureEncoder` runs in front of the exported model, so training and serving cannot drift
apart. Encoded tensors hold no strings, so everything after them compiles under XLA.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
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
    DenseFeature,
    FeatureDeclaration,
)

MAX_STANDARDIZED = 10.0
MAX_UNSCALED = 1e6  # of a feature without a transform


class FeatureEncoder(tf.Module):
    """Raw tensors to model tensors: ids by vocabulary lookup, dense values standardized.

    id(v) = 0 for "", 2 + line of v in its vocabulary, 1 if not in it;
    dense(x) = clip((f(x) - mean) / std, -10, 10), f the identity or log(1 + max(x, 0)), 0 if missing;
    without a transform dense(x) = clip(x, -10^6, 10^6): no input, infinite ones included, leads to a score
    that is not a finite number.

    Values of one vocabulary are looked up together, and the dense features of candidates, history and context
    are each standardized together: a graph's cost is its number of operations.

    Args:
        declaration: The features.
        vocabulary_dir: Folder of `<vocabulary>.txt` files; they become assets of a SavedModel.
        statistics: mean and std by dense key, as in `statistics.json`.

    Attributes:
        vocabulary_sizes: Number of ids by vocabulary, padding and unknown included.
        moments: mean and std by dense key.

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
        self.vocabulary_dir = os.fspath(vocabulary_dir)
        self.vocabulary_sizes: dict[str, int] = {}
        self._tables: dict[str, tf.lookup.StaticHashTable | None] = {}
        for vocabulary in declaration.vocabularies:
            path = os.path.join(self.vocabulary_dir, f"{vocabulary}.txt")
            if not os.path.isfile(path):
                raise InputError(f"{path}: no such vocabulary file")
            with open(path, "rb") as file:
                lines = sum(1 for _ in file)
            self.vocabulary_sizes[vocabulary] = lines + 2
            self._tables[vocabulary] = _lookup_table(path) if lines else None
        self.moments: dict[str, tuple[float, float]] = {}
        for key in declaration.dense_keys:
            try:
                moments = statistics[key]
                self.moments[key] = (float(moments["mean"]), float(moments["std"]))
            except (KeyError, TypeError, ValueError):
                raise InputError(f"statistics: no mean and std of the declared feature {key!r}") from None
            if not self.moments[key][1] > 0.0:
                raise InputError(f"statistics: {key}: std must be positive, got {self.moments[key][1]}")

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes a batch.

        Args:
            raw: What `parse_lists` gives, with histories of any length; labels and `initial_rank` may be
                absent.

        Returns:
            Categorical features by name on the wire, int32, shapes kept; `context_dense` [batch, Dc],
            `history_dense` [batch, H, Dh], `candidate_dense` [batch, N, Dn], float32; `history_mask`
            bool [batch, H]; `mask` bool [batch, N], false at padding; `initial_rank` int32 [batch, N].
            With `relevance` in `raw` also `shown_position` int32 [batch, N], -1 at padding and where the
            candidate was not shown, and `labels` and `negatives`, float32 [batch, N], 0 where it is -1.
            A list without any position was shown whole, in the candidates' order.
        """
        declaration = self.declaration
        encoded = self._ids(raw)
        for feature in declaration.history.categorical:
            name = HISTORY_PREFIX + feature.name
            encoded[name] = fitted(encoded[name], declaration.history.length, PADDING_ID)
        encoded["mask"] = mask = tf.not_equal(tf.squeeze(encoded[ITEM_ID], -1), PADDING_ID)
        encoded["history_mask"] = tf.not_equal(tf.squeeze(encoded[HISTORY_PREFIX + ITEM_ID], -1), PADDING_ID)
        shape = tf.shape(mask)
        encoded["context_dense"] = self._dense(raw, declaration.context_dense, "", shape[:1])
        encoded["history_dense"] = self._dense(
            raw, declaration.history.dense, HISTORY_PREFIX, tf.shape(encoded["history_mask"])
        )
        encoded["candidate_dense"] = self._dense(raw, declaration.candidate_dense, "", shape)
        if INITIAL_RANK in raw:
            ranks = tf.cast(tf.minimum(raw[INITIAL_RANK], np.iinfo(np.int32).max), tf.int32)
            encoded[INITIAL_RANK] = tf.where(raw[INITIAL_RANK] >= 0, ranks, tf.range(shape[1]))
        if RELEVANCE in raw:
            encoded[SHOWN_POSITION] = shown_slots(raw[SHOWN_POSITION], mask)
            shown = encoded[SHOWN_POSITION] >= 0
            encoded["labels"] = tf.where(shown, tf.maximum(raw[RELEVANCE], 0.0), 0.0)
            encoded["negatives"] = tf.where(shown, raw[NEGATIVE], 0.0)
        return encoded

    def _ids(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Ids of every categorical feature by its name on the wire: one lookup a vocabulary."""
        declaration = self.declaration
        names: dict[str, list[str]] = {}
        for prefix, features in (
            ("", declaration.context_categorical),
            (HISTORY_PREFIX, declaration.history.categorical),
            ("", declaration.candidate_categorical),
        ):
            for feature in features:
                names.setdefault(feature.vocabulary, []).append(prefix + feature.name)
        texts: list[tf.Tensor] = []
        found: list[tf.Tensor] = []
        for vocabulary, sharing in names.items():
            flat = [tf.reshape(raw[name], [-1]) for name in sharing]
            text = tf.concat(flat, 0) if len(flat) > 1 else flat[0]
            table = self._tables[vocabulary]
            ids = tf.fill(tf.shape(text), np.int64(UNKNOWN_ID)) if table is None else table.lookup(text)
            texts.append(text)
            found.append(ids)
        # Every operation has its price in a serving graph, so what follows is done for all at once. The id
        # of padding is 0.
        given = tf.cast(tf.not_equal(tf.concat(texts, 0), ""), tf.int32)
        every = [name for sharing in names.values() for name in sharing]
        shapes = [tf.shape(raw[name]) for name in every]
        parts = tf.split(tf.cast(tf.concat(found, 0), tf.int32) * given, [tf.reduce_prod(s) for s in shapes])
        return {
            name: tf.ensure_shape(tf.reshape(part, shape), raw[name].shape)
            for name, part, shape in zip(every, parts, shapes, strict=True)
        }

    def _dense(
        self, raw: Mapping[str, tf.Tensor], features: Sequence[DenseFeature], prefix: str, shape: tf.Tensor
    ) -> tf.Tensor:
        """The standardized columns of one part of the request, [*shape, len(features)]."""
        if not features:
            return tf.zeros(tf.concat([shape, [0]], 0))
        columns = []
        for feature in features:
            column = raw[prefix + feature.name]
            if prefix == HISTORY_PREFIX:
                column = fitted(column, self.declaration.history.length, math.nan)
            if feature.transform == "log1p_standardize":
                column = tf.math.log1p(tf.maximum(column, 0.0))  # NaN stays NaN
            columns.append(column)
        values = tf.stack(columns)  # features first: TensorFlow broadcasts along the rows of a matrix fastest
        unscaled = np.array([feature.transform == "none" for feature in features])
        mean, std = np.transpose([self.moments[prefix + feature.name] for feature in features])
        each = [-1] + [1] * (values.shape.rank - 1)
        if not unscaled.all():
            mean = np.float32(np.where(unscaled, 0.0, mean)).reshape(each)
            values = (values - mean) / np.float32(np.where(unscaled, 1.0, std)).reshape(each)
        bounds = np.float32(np.where(unscaled, MAX_UNSCALED, MAX_STANDARDIZED)).reshape(each)
        if (bounds == bounds.flat[0]).all():
            bounds = bounds.flat[:1]  # broadcasting one number is faster
        values = tf.clip_by_value(values, -bounds, bounds)
        values = chosen(tf.math.is_nan(values), tf.zeros_like(values), values)
        return tf.transpose(values, [*range(1, values.shape.rank), 0])


def chosen(condition: tf.Tensor, values: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """`tf.where` of three tensors of one shape, by the operation that does not broadcast: much faster."""
    return tf.compat.v1.where(condition, values, others)


def fitted(values: tf.Tensor, length: int, padding: float, axis: int = 1) -> tf.Tensor:
    """Values [batch, h, ...] cut or padded to [batch, length, ...]; as they are where that is their shape.

    Another axis than that of h is fitted where `axis` says so.
    """
    if values.shape[axis] == length:
        return values
    axes = range(values.shape.rank)
    ends = [[0, length if each == axis else 0] for each in axes]
    padded = tf.pad(values, ends, constant_values=tf.cast(padding, values.dtype))
    return tf.slice(padded, [0 for _ in axes], [length if each == axis else -1 for each in axes])


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
    """value -> id, that of the unknown for values that the file lacks."""
    initializer = tf.lookup.TextFileInitializer(
        path,
        key_dtype=tf.string,
        key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        value_index_offset=UNKNOWN_ID + 1,
    )
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN_ID)
