"""Embedding tables: padding is zero, values are averaged, compositional embeddings are distinct and small."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from psad_tf.config import EmbeddingConfig
from psad_tf.features import CategoricalFeature
from psad_tf.layers.embedding import CompositionalEmbedding, FeatureEmbedding, TableEmbedding


def test_padding_has_a_zero_embedding():
    for layer in (TableEmbedding(5, 3, "t"), CompositionalEmbedding(5, 3, "c")):
        rows = layer(tf.constant([0, 1])).numpy()
        assert (rows[0] == 0).all() and (rows[1] != 0).any()


def test_several_values_are_averaged_without_padding():
    embeddings = FeatureEmbedding({"genre": 6}, 4, EmbeddingConfig())
    one, three = CategoricalFeature("a", "genre"), CategoricalFeature("b", "genre", 3)
    rows = embeddings(tf.constant([[2], [3]]), one).numpy()
    np.testing.assert_allclose(embeddings(tf.constant([[2, 3, 0]]), three)[0], rows.mean(0), rtol=1e-6)
    assert (embeddings(tf.constant([[0, 0, 0]]), three).numpy() == 0).all()


def test_compositional_embeddings_are_distinct_in_two_small_tables():
    layer = CompositionalEmbedding(1_000, 8, "c")
    rows = layer(tf.range(1, 1_000)).numpy()
    assert len(np.unique(rows.round(7), axis=0)) == 999
    assert sum(int(np.prod(v.shape)) for v in layer.trainable_variables) == 8 * (32 + 32)


def test_only_vocabularies_above_the_limit_are_compositional():
    config = EmbeddingConfig(kind="compositional", compositional_above=10)
    tables = FeatureEmbedding({"small": 10, "large": 11}, 4, config).tables
    assert isinstance(tables["small"], TableEmbedding)
    assert isinstance(tables["large"], CompositionalEmbedding)


def test_dropout_drops_whole_embeddings_and_none_without_a_seed():
    embeddings = FeatureEmbedding({"id": 50}, 4, EmbeddingConfig(dropout_rate=0.5))
    feature = CategoricalFeature("id")
    ids = tf.ones([400, 1], tf.int32)
    dropped = embeddings(ids, feature, tf.constant([1, 2])).numpy()
    zero = (dropped == 0).all(-1)
    assert 0.4 < zero.mean() < 0.6 and (dropped[~zero] != 0).all()
    assert (embeddings(ids, feature).numpy() != 0).all()


def test_values_are_taken_for_unknown_in_training_so_that_the_unknown_row_learns():
    embeddings = FeatureEmbedding({"id": 50}, 4, EmbeddingConfig(unknown_rate=0.3))
    feature, ids = CategoricalFeature("id"), tf.concat([tf.fill([500, 1], 7), tf.zeros([9, 1], tf.int32)], 0)
    with tf.GradientTape() as tape:
        rows = embeddings(ids, feature, tf.constant([1, 2]))
        total = tf.reduce_sum(rows)
    table = embeddings.trainable_variables[0]
    unknown = (rows[:500].numpy() == table[1].numpy()).all(-1)
    assert 0.2 < unknown.mean() < 0.4
    assert (rows[500:].numpy() == 0).all(), "a missing value stays missing"
    assert (tf.convert_to_tensor(tape.gradient(total, table))[1].numpy() > 100).all()
    assert (embeddings(ids, feature)[:500].numpy() == table[7].numpy()).all(), "only in training"


def test_the_unknown_row_is_trained_by_default():
    assert EmbeddingConfig().unknown_rate > 0.0
