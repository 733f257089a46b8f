"""What every layer owes Keras: it comes back from its configuration, and refuses what cannot work."""

from __future__ import annotations

import pytest
import tensorflow as tf

from psad_tf.layers.above_context import AboveContext
from psad_tf.layers.attention import DecoderLayer, EncoderLayer, MultiHeadAttention
from psad_tf.layers.mlp import MLP
from psad_tf.layers.pair_influence import PairInfluence
from psad_tf.layers.position_bias import PositionBias

LAYERS = [
    AboveContext(num_heads=3, head_dim=2, name="above"),
    DecoderLayer(8, num_heads=2, feed_forward_dim=16, dropout_rate=0.1, name="decoder"),
    EncoderLayer(8, num_heads=2, feed_forward_dim=16, dropout_rate=0.1, name="encoder"),
    MLP((4, 1), dropout_rate=0.2, name="mlp"),
    MultiHeadAttention(8, num_heads=2, name="attention"),
    PairInfluence(num_heads=3, head_dim=2, hidden_dim=5, name="pairs"),
    PositionBias(7, kind="additive", name="positions"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_a_layer_comes_back_from_its_configuration(layer):
    copy = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiHeadAttention(10, num_heads=4), "num_heads: 4 does not divide dim 10"),
        (lambda: EncoderLayer(10, num_heads=4, feed_forward_dim=8), "num_heads: 4 does not divide dim 10"),
        (lambda: MLP(()), "dims"),
        (lambda: PairInfluence(num_heads=0), "num_heads: must be at least 1, got 0"),
        (lambda: AboveContext(head_dim=0), "head_dim: must be at least 1, got 0"),
        (lambda: PositionBias(0), "slots: must be at least 1, got 0"),
        (lambda: PositionBias(3, kind="clicks"), "kind: must be examination, additive or none, got 'clicks'"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["examination", "additive", "none"])
def test_the_slot_changes_values_as_its_formula_says(kind):
    layer = PositionBias(2, kind)
    logits = tf.constant([[0.4, 0.4, 0.4]])
    layer(logits)
    if kind != "none":
        layer.slot_bias.assign([0.3, -0.1])
    plain = tf.sigmoid(0.4)
    expected = {
        "examination": [tf.sigmoid(3.0) * plain, tf.sigmoid(-1.0) * plain],
        "additive": [tf.sigmoid(3.4), tf.sigmoid(-0.6)],
        "none": [plain, plain],
    }[kind]
    found = layer(logits)[0].numpy()
    assert found[:2] == pytest.approx([float(each) for each in expected], rel=1e-5)
    assert found[2] == found[1]  # slots past the last share it
    assert float(layer(logits[:, :1], start=1)[0, 0]) == pytest.approx(float(expected[1]), rel=1e-5)
