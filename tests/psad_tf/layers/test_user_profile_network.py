"""The User Profile Network: gates, positions and attention depend on what they say, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.layers.user_profile_network import UserProfileNetwork
from tests import tiny


@pytest.fixture(scope="module")
def network() -> UserProfileNetwork:
    return tiny.model().reranker.user_profile_network


def test_gates_are_personal_between_zero_and_two_and_pass_no_gradient_into_their_item(network):
    item = tf.Variable(tf.random.stateless_normal([2, 3, 8], [1, 2]))
    intent = tf.random.stateless_normal([2, 8], [3, 4])
    gates = (network._gated(item, intent, None) / item).numpy()
    assert ((gates > 0) & (gates < 2)).all()
    same_item = tf.repeat(item[:1], 2, axis=0)
    per_user = network._gated(same_item, intent, None).numpy()
    assert np.abs(per_user[0] - per_user[1]).max() > 1e-3
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network._gated(item, intent, None))
    np.testing.assert_allclose(tape.gradient(total, item), gates, rtol=1e-4)


def test_positions_differ_between_users_and_are_a_mixture_of_the_bases(network):
    intents = tf.random.stateless_normal([2, 8], [5, 6])
    positions = network._positions(intents).numpy()
    assert np.abs(positions[0] - positions[1]).max() > 1e-3
    weights = tf.nn.softmax(network.position_mixture(intents)).numpy()
    expected = np.einsum("bm,mpd->bpd", weights, network.position_bases.numpy())
    np.testing.assert_allclose(positions, expected, atol=1e-5)


def test_padding_in_the_history_changes_nothing(network):
    batch = tiny.batch(4, 5, seed=1)
    other = dict(batch)
    unseen = ~batch["history_mask"].numpy()[..., None]
    other["history_dense"] = tf.where(unseen, 9.0, batch["history_dense"])
    for one, two in zip(network(batch), network(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_an_empty_history_gives_finite_profiles(network):
    batch = tiny.batch(2, 5, seed=2)
    batch["history_mask"] = tf.zeros_like(batch["history_mask"])
    assert all(np.isfinite(part).all() for part in network(batch))


def test_recent_interactions_matter_in_their_order(network):
    batch = tiny.batch(6, 5, seed=3)
    batch["history_mask"] = tf.ones_like(batch["history_mask"])
    keys = ("history_item_id", "history_genre", "history_dense")
    turned = {k: tf.reverse(v, [1]) if k in keys else v for k, v in batch.items()}
    assert np.abs(network(batch).intent - network(turned).intent).max() > 1e-3
