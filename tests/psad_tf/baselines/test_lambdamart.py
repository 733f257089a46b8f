"""LambdaMART's hand-made features, and that the trees learn an order."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.baselines.lambdamart import LambdaMART, LambdaMARTConfig, tabular_features
from psad_tf.metrics import mean_metrics, per_list_metrics
from tests import tiny

pytest.importorskip("lightgbm")


def test_permuting_the_candidates_permutes_the_features():
    batch, order = tiny.batch(4, 6, shortest=6), np.array([3, 0, 5, 1, 4, 2])
    features, _ = tabular_features(batch, tiny.DECLARATION, tiny.SIZES)
    permuted, _ = tabular_features(tiny.permuted(batch, order), tiny.DECLARATION, tiny.SIZES)
    np.testing.assert_array_equal(permuted, features[:, order])


def test_padding_changes_no_candidates_features():
    batch = tiny.batch(4, 6, shortest=3)
    features, categories = tabular_features(batch, tiny.DECLARATION, tiny.SIZES)
    padded, same = tabular_features(tiny.padded(batch, 3), tiny.DECLARATION, tiny.SIZES)
    mask = batch["mask"].numpy()
    np.testing.assert_array_equal(padded[:, :6][mask], features[mask])
    assert categories == same


def test_a_candidate_like_the_history_is_told_from_one_that_is_not():
    batch = tiny.batch(1, 2)
    batch["history_mask"] = tf.constant([[True, True] + [False] * 4])
    batch["history_item_id"] = tf.constant([[[7], [8], [0], [0], [0], [0]]])
    batch["item_id"] = tf.constant([[[7], [9]]])
    batch["history_genre"], batch["genre"] = (
        tf.zeros_like(batch["history_genre"]),
        tf.zeros_like(batch["genre"]),
    )
    batch["history_dense"] = tf.constant([[[3.0], [1.0], [0.0], [0.0], [0.0], [0.0]]])
    features, _ = tabular_features(batch, tiny.DECLARATION, tiny.SIZES)
    # Item: share of the past, share of the 5 most recent, its rating less the mean; then the same of genre.
    np.testing.assert_allclose(features[0, :, -6:], [[0.5, 0.2, 1.0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


def test_the_trees_learn_the_order_of_a_feature():
    def labelled(seed: int) -> dict[str, tf.Tensor]:
        batch = tiny.batch(64, 6, seed=seed, shortest=4)
        values = batch["candidate_dense"][..., 1]
        labels = tf.cast(values > 0.5, tf.float32) + tf.cast(values > 1.0, tf.float32)
        return {**batch, "labels": tf.where(batch["mask"], labels, 0.0)}

    config = LambdaMARTConfig(num_leaves=7, min_data_in_leaf=5, num_iterations=30)
    model = LambdaMART(_graded_declaration(), tiny.SIZES, config)
    model.fit([labelled(1), labelled(2)], [labelled(3)])
    test = labelled(4)
    scores, mask = model.rank(test), test["mask"].numpy()
    assert mean_metrics(per_list_metrics(scores, test["labels"].numpy(), where=mask))["ndcg@5"] > 0.95
    assert (scores[~mask] < scores[mask].min()).all()


def test_what_was_not_shown_is_in_no_training_group():
    batches = []
    for seed in (1, 2):
        batch = tiny.batch(64, 6, seed=seed)
        shown = np.arange(6) % 2 == 0
        batch["shown_position"] = tf.constant(
            np.tile(np.where(shown, np.arange(6) // 2, -1), (64, 1)), tf.int32
        )
        batch["labels"] = tf.where(shown, batch["labels"], 0.0)
        batches.append(batch)
    model = LambdaMART(
        _graded_declaration(),
        tiny.SIZES,
        LambdaMARTConfig(num_leaves=4, min_data_in_leaf=5, num_iterations=5),
    )
    model.fit(batches[:1], batches[1:])
    expected = model.rank(batches[0])
    for batch in batches:
        batch["labels"] = batch["labels"] + 2.0 * tf.cast(batch["shown_position"] < 0, tf.float32)
    model.fit(batches[:1], batches[1:])
    np.testing.assert_array_equal(model.rank(batches[0]), expected)


def _graded_declaration():  # type: ignore[no-untyped-def]
    import dataclasses

    from psad_tf.features import LabelDeclaration, LabelRule

    rules = (LabelRule("rating", 4.0, 1), LabelRule("rating", 5.0, 2))
    return dataclasses.replace(tiny.DECLARATION, label=LabelDeclaration(grades=rules))
