"""Serialized lists to raw tensors: parsing specifications and padding."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tensorflow_ranking as tfr

from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    SHOWN_POSITION,
    CategoricalFeature,
    FeatureDeclaration,
)


def context_spec(declaration: FeatureDeclaration) -> dict[str, Any]:
    """Parsing specification of the context Example."""
    spec: dict[str, Any] = {REQUEST_ID: tf.io.FixedLenFeature([], tf.string, "")}
    for feature in declaration.context_categorical:
        spec[feature.name] = _fixed_strings(feature)
    for dense in declaration.context_dense:
        spec[dense.name] = tf.io.FixedLenFeature([], tf.float32, math.nan)
    for feature in declaration.history.categorical:
        spec[HISTORY_PREFIX + feature.name] = tf.io.FixedLenSequenceFeature(
            [feature.width], tf.string, allow_missing=True, default_value=""
        )
    for dense in declaration.history.dense:
        spec[HISTORY_PREFIX + dense.name] = tf.io.FixedLenSequenceFeature(
            [], tf.float32, allow_missing=True, default_value=math.nan
        )
    return spec


def candidate_spec(declaration: FeatureDeclaration) -> dict[str, Any]:
    """Parsing specification of each candidate's Example."""
    spec: dict[str, Any] = {}
    for feature in declaration.candidate_categorical:
        spec[feature.name] = _fixed_strings(feature)
    for dense in declaration.candidate_dense:
        spec[dense.name] = tf.io.FixedLenFeature([], tf.float32, math.nan)
    spec[INITIAL_RANK] = tf.io.FixedLenFeature([], tf.int64, -1)
    spec[SHOWN_POSITION] = tf.io.FixedLenFeature([], tf.int64, -1)
    spec[RELEVANCE] = tf.io.FixedLenFeature([], tf.float32, -1.0)
    spec[NEGATIVE] = tf.io.FixedLenFeature([], tf.float32, 0.0)
    return spec


def _fixed_strings(feature: CategoricalFeature) -> Any:
    return tf.io.FixedLenFeature([feature.width], tf.string, [""] * feature.width)


def parse_lists(
    serialized: tf.Tensor, declaration: FeatureDeclaration, list_size: int | None = None
) -> dict[str, tf.Tensor]:
    """Parses serialized ExampleListWithContext protos.

    Args:
        serialized: string [batch].
        declaration: The features; one that a record lacks gets its missing value.
        list_size: N; longer lists are cut, shorter ones padded. None takes the batch's longest.

    Returns:
        By name on the wire: context features [batch] or, categorical, [batch, width]; history features
        [batch, H] or [batch, H, width]; candidate features, `initial_rank`, `shown_position`, `relevance`
        and `negative` [batch, N] or [batch, N, width]. Padding candidates have the item id "".
    """
    raw = tfr.data.parse_from_example_list(
        serialized,
        list_size=list_size,
        context_feature_spec=context_spec(declaration),
        example_feature_spec=candidate_spec(declaration),
    )
    length = declaration.history.length
    for feature in declaration.history.categorical:
        name = HISTORY_PREFIX + feature.name
        raw[name] = _resize(raw[name], length, "")
    for dense in declaration.history.dense:
        name = HISTORY_PREFIX + dense.name
        raw[name] = _resize(raw[name], length, math.nan)
    return raw


def _resize(values: tf.Tensor, length: int, padding: str | float) -> tf.Tensor:
    """Cuts or pads axis 1 to `length`."""
    values = values[:, :length]
    missing = length - tf.shape(values)[1]
    paddings = [[0, 0], [0, missing]] + [[0, 0]] * (values.shape.rank - 2)
    values = tf.pad(values, paddings, constant_values=padding)
    return tf.ensure_shape(values, [values.shape[0], length, *values.shape[2:]])
