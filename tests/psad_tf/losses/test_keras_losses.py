"""The losses as Keras losses: in a stock model, saved and loaded, equal to the functions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from psad_tf import losses

SCORES = tf.constant([[0.3, -0.2, 0.9], [0.1, 0.4, -0.5]])
LABELS = tf.constant([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
ORDER = tf.constant([[2, 0, -1], [1, 2, 0]])


@pytest.mark.parametrize(
    ("loss", "y_true", "expected"),
    [
        (
            losses.ListwiseLoss(),
            LABELS,
            losses.listwise_loss(SCORES, tf.maximum(LABELS, 0.0), where=LABELS >= 0.0),
        ),
        (
            losses.PlackettLuceLoss(),
            ORDER,
            losses.plackett_luce_loss(SCORES, ORDER),
        ),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_a_loss_is_its_function(loss, y_true, expected):
    np.testing.assert_allclose(loss(y_true, SCORES), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.ListwiseLoss(),
        losses.PointwiseLoss(),
        losses.ShownListLoss(max_label=2.0),
        losses.PlackettLuceLoss(),
    ],
    ids=lambda loss: loss.name,
)
def test_a_loss_survives_serialization(loss):
    again = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


@pytest.mark.slow
def test_a_stock_model_trains_with_one_and_is_saved_with_it(tmp_path):
    tf.keras.utils.set_random_seed(1)
    features = np.random.default_rng(1).normal(size=(64, 5, 3)).astype(np.float32)
    labels = (features[..., 0] > 0.3).astype(np.float32)
    inputs = tf.keras.Input([5, 3])
    model = tf.keras.Model(inputs, tf.keras.layers.Reshape([5])(tf.keras.layers.Dense(1)(inputs)))
    model.compile(tf.keras.optimizers.Adam(0.1), loss=losses.ListwiseLoss())
    history = model.fit(features, labels, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(features, labels, verbose=0) == pytest.approx(
        model.evaluate(features, labels, verbose=0), rel=1e-5
    )
