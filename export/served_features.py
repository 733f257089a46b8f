"""Raw tensors to embeddings and dense values as the serving graph has them: by few operations.

Gives what `FeatureEncoder` and `FeatureEmbedding` give for the same request; a test holds them together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from psad_tf.data.encoder import MAX_STANDARDIZED, MAX_UNSCALED, FeatureEncoder, chosen
from psad_tf.errors import InputError
from psad_tf.export.served_layers import ServedLayers
from psad_tf.features import (
    HISTORY_PREFIX,
    ITEM_ID,
    PADDING_ID,
    UNKNOWN_ID,
    CategoricalFeature,
    DenseFeature,
    FeatureDeclaration,
)
from psad_tf.layers.embedding import FeatureEmbedding

_CONTEXT, _HISTORY, _CANDIDATES = range(3)
_LOGARITHM = "log1p_standardize"
_MISSING = b""
_SEPARATORS = (b"\t", b" ", b"|", b"\x1f", b"\x1e", b"\x01")


class ServedInputs(NamedTuple):
    """A request of b lists, n candidates and h past interactions each, one row after another.

    Attributes:
        of_lists: Gives rows [b n, k] the shape [b, n, k].
        of_histories: Gives rows [b h, k] the shape [b, h, k].
        users: Embeddings of the context's features, [b, d] each, in the order of the declaration.
        past: Those of the history's features, [b h, d] each.
        items: Those of the candidates' features, [b n, d] each.
        dense: Standardized numbers of context, history and candidates, [rows, columns] each, the columns in
            the order of `column_order`; None where none are declared.
        history_mask: bool [b, h], false at padding.
        present: bool [b, n], false at padding.
    """

    of_lists: Callable[[tf.Tensor], tf.Tensor]
    of_histories: Callable[[tf.Tensor], tf.Tensor]
    users: list[tf.Tensor]
    past: list[tf.Tensor]
    items: list[tf.Tensor]
    dense: tuple[tf.Tensor | None, tf.Tensor | None, tf.Tensor | None]
    history_mask: tf.Tensor
    present: tf.Tensor


def column_order(features: Sequence[DenseFeature]) -> list[int]:
    """The order in which numbers are served, as indices: those whose logarithm is taken stand together."""
    return sorted(range(len(features)), key=lambda index: features[index].transform != _LOGARITHM)


class ServedEncoder(tf.Module):
    """Encodes requests; see `FeatureEncoder` for the formulas.

    Values of one vocabulary and width are looked up together, in tables that give the ids of padding and of
    the unknown as well, and embedded together.

    Args:
        encoder: Of the run.
        vocabulary_dir: An existing folder where files of the lookup tables are written; they must stay until
            the module is saved.
    """

    def __init__(self, encoder: FeatureEncoder, vocabulary_dir: str) -> None:
        super().__init__(name="served_encoder")
        self._declaration = encoder.declaration
        self._moments = encoder.moments
        self._tables = {}
        for vocabulary in encoder.declaration.vocabularies:
            name = f"{vocabulary}.txt"
            self._tables[vocabulary] = _lookup_table(
                os.path.join(encoder.vocabulary_dir, name), os.path.join(vocabulary_dir, name)
            )

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A request with the ids of its strings, int64, in their place."""
        found = dict(raw)
        for (vocabulary, _), names in _sharing(self._declaration).items():
            found |= {name: self._tables[vocabulary].lookup(raw[name]) for name in names}
        return found

    def __call__(
        self,
        raw: Mapping[str, tf.Tensor],
        sizes: tf.Tensor,
        layers: ServedLayers,
        embeddings: FeatureEmbedding,
    ) -> ServedInputs:
        """Encodes a request.

        Args:
            raw: By name on the wire, as `serving_default` has them, or as `lookup` gives them; candidates
                [b, n, ...] or [b n, ...]; histories of any length are cut.
            sizes: int32 [2], b and n.
            layers: The weights.
            embeddings: The layer with the tables.
        """
        declaration, length = self._declaration, self._declaration.history.length
        raw = {
            name: values[:, :length] if name.startswith(HISTORY_PREFIX) and values.shape.rank > 1 else values
            for name, values in raw.items()
        }
        histories = tf.shape(tf.squeeze(raw[HISTORY_PREFIX + ITEM_ID], -1))  # [b, h]
        rows = (sizes[0], sizes[0] * histories[1], sizes[0] * sizes[1])
        embedded, present = self._embedded(raw, layers, embeddings, rows)
        users = [embedded[each.name] for each in declaration.context_categorical]
        if not users and not declaration.context_dense:
            users = [tf.zeros([sizes[0], 1])]  # as the model has it where nothing is declared of users
        return ServedInputs(
            of_lists=_reshaped(sizes),
            of_histories=_reshaped(histories),
            users=users,
            past=[embedded[HISTORY_PREFIX + each.name] for each in declaration.history.categorical],
            items=[embedded[each.name] for each in declaration.candidate_categorical],
            dense=(
                self._dense(raw, declaration.context_dense, ""),
                self._dense(raw, declaration.history.dense, HISTORY_PREFIX),
                self._dense(raw, declaration.candidate_dense, ""),
            ),
            history_mask=tf.reshape(present[HISTORY_PREFIX + ITEM_ID], histories),
            present=tf.reshape(present[ITEM_ID], sizes),
        )

    def _embedded(
        self,
        raw: Mapping[str, tf.Tensor],
        layers: ServedLayers,
        embeddings: FeatureEmbedding,
        rows: Sequence[tf.Tensor],
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Embeddings by the features' names on the wire, and whether item ids are there."""
        embedded: dict[str, tf.Tensor] = {}
        present: dict[str, tf.Tensor] = {}
        for (vocabulary, width), names in _sharing(self._declaration).items():
            flat = [tf.reshape(raw[name], [-1]) for name in names]
            ids = flat[0] if len(flat) == 1 else tf.concat(flat, 0)
            if ids.dtype == tf.string:
                ids = self._tables[vocabulary].lookup(ids)
            table = embeddings.tables[vocabulary]
            with layers.in_graph(table):
                values = table(ids)
            given = tf.not_equal(ids, PADDING_ID)
            counts = [rows[part] for part in names.values()]
            if width > 1:
                number = tf.reduce_sum(tf.reshape(tf.cast(given, tf.float32), [-1, width]), 1, keepdims=True)
                values = tf.reduce_sum(tf.reshape(values, [-1, width, values.shape[-1]]), 1)
                values = values / tf.maximum(number, 1.0)
            embedded |= zip(names, _split(values, counts), strict=True)
            if ITEM_ID in names:
                present |= zip(names, _split(given, counts), strict=True)
        return embedded, present

    def _dense(
        self, raw: Mapping[str, tf.Tensor], features: Sequence[DenseFeature], prefix: str
    ) -> tf.Tensor | None:
        if not features:
            return None
        features = [features[index] for index in column_order(features)]
        logarithms = sum(feature.transform == _LOGARITHM for feature in features)
        values = tf.stack([raw[prefix + feature.name] for feature in features], -1)
        values = tf.reshape(values, [-1, len(features)])
        missing = tf.math.is_nan(values)  # now: XLA's minimum and maximum do not keep NaN
        if logarithms:
            logarithm = tf.math.log1p(tf.maximum(values[:, :logarithms], 0.0))
            rest = values[:, logarithms:]
            values = logarithm if logarithms == len(features) else tf.concat([logarithm, rest], -1)
        scaled = np.array([feature.transform != "none" for feature in features])
        mean, std = np.transpose([self._moments[prefix + feature.name] for feature in features])
        if scaled.any():
            values = (values - np.float32(np.where(scaled, mean, 0.0))) * np.float32(
                1.0 / np.where(scaled, std, 1.0)
            )
        bounds = np.where(scaled, MAX_STANDARDIZED, MAX_UNSCALED).astype(np.float32)
        if scaled.all() or not scaled.any():
            bounds = bounds[0]  # broadcasting one number is faster
        values = tf.clip_by_value(values, -bounds, bounds)
        return chosen(missing, tf.zeros_like(values), values)


def _sharing(declaration: FeatureDeclaration) -> dict[tuple[str, int], dict[str, int]]:
    """Features by vocabulary and width: by name on the wire, the part of the request that they are of."""
    groups: dict[tuple[str, int], dict[str, int]] = {}

    def add(features: Sequence[CategoricalFeature], part: int, prefix: str = "") -> None:
        for feature in features:
            groups.setdefault((feature.vocabulary, feature.width), {})[prefix + feature.name] = part

    add(declaration.history.categorical, _HISTORY, HISTORY_PREFIX)
    add(declaration.candidate_categorical, _CANDIDATES)
    add(declaration.context_categorical, _CONTEXT)
    return groups


def _reshaped(sizes: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Gives rows [m, k] the shape [*sizes, k]; shapes are made once for each k."""
    shapes: dict[int, tf.Tensor] = {}

    def reshaped(rows: tf.Tensor) -> tf.Tensor:
        width = rows.shape[-1]
        if width not in shapes:
            shapes[width] = tf.concat([sizes, [width]], 0)
        return tf.reshape(rows, shapes[width])

    return reshaped


def _split(values: tf.Tensor, counts: list[tf.Tensor]) -> list[tf.Tensor]:
    return [values] if len(counts) == 1 else tf.split(values, counts)


def _lookup_table(vocabulary: str, path: str) -> tf.lookup.StaticHashTable:
    """value -> id, that of the missing value as well, so that nothing is left to do after the lookup.

    Args:
        vocabulary: A file of values, one a line.
        path: Where the table is written, a value and its id a line; it becomes an asset of the SavedModel.
    """
    with open(vocabulary, "rb") as file:
        values = file.read().removesuffix(b"\n").split(b"\n")
    separator = next((byte for byte in _SEPARATORS if not any(byte in value for value in values)), None)
    if separator is None:
        raise InputError(f"{vocabulary}: its values have every one of the characters {_SEPARATORS}")
    ids = {_MISSING: PADDING_ID}
    ids |= {value: index for index, value in enumerate(values, UNKNOWN_ID + 1) if value}
    with open(path, "wb") as file:
        file.writelines(b"%b%b%d\n" % (value, separator, index) for value, index in ids.items())
    initializer = tf.lookup.TextFileInitializer(
        path,
        key_dtype=tf.string,
        key_index=0,
        value_dtype=tf.int64,
        value_index=1,
        delimiter=separator.decode(),
    )
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN_ID)
