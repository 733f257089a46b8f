"""A batch without content, to make a model's weights and signatures."""

from __future__ import annotations

import tensorflow as tf

from psad_tf.features import SHOWN_POSITION, FeatureDeclaration


def empty_batch(declaration: FeatureDeclaration, lists: int, candidates: int) -> dict[str, tf.Tensor]:
    """Encoded tensors of lists that are all padding."""
    length = declaration.history.length
    batch: dict[str, tf.Tensor] = {}
    for feature in declaration.context_categorical:
        batch[feature.name] = tf.zeros([lists, feature.width], tf.int32)
    for feature in declaration.history.categorical:
        batch["history_" + feature.name] = tf.zeros([lists, length, feature.width], tf.int32)
    for feature in declaration.candidate_categorical:
        batch[feature.name] = tf.zeros([lists, candidates, feature.width], tf.int32)
    batch["context_dense"] = tf.zeros([lists, len(declaration.context_dense)])
    batch["history_dense"] = tf.zeros([lists, length, len(declaration.history.dense)])
    batch["candidate_dense"] = tf.zeros([lists, candidates, len(declaration.candidate_dense)])
    batch["history_mask"] = tf.zeros([lists, length], tf.bool)
    batch["mask"] = tf.zeros([lists, candidates], tf.bool)
    batch["initial_rank"] = tf.zeros([lists, candidates], tf.int32)
    batch["labels"] = tf.zeros([lists, candidates])
    batch["negatives"] = tf.zeros([lists, candidates])
    batch[SHOWN_POSITION] = tf.fill([lists, candidates], -1)
    return batch
