"""PSAD as a Keras user uses it, without having read anything."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import psad_tf as psad
from psad_tf.errors import InputError
from tests import tiny

pytestmark = pytest.mark.slow

SMALL = {
    "embedding_dim": 8,
    "teacher": {"slots": 3, "block_size": 2, "num_heads": 2, "feed_forward_dim": 8, "pair_heads": 2},
    "student": {"hidden_dims": [8, 4]},
}
# Tiny steps are done sooner than traced; that graphs and XLA compute the same is tested beside the model.
EAGER = {"jit_compile": False, "run_eagerly": True}


def lists(seed: int = 0) -> tf.data.Dataset:
    """Two batches, as a mapping with labels in it."""
    return tf.data.Dataset.from_tensors(tiny.batch(8, 6, seed=seed)).repeat(2)


def small(**changes) -> psad.PSAD:
    tf.keras.utils.set_random_seed(1)
    return psad.PSAD(tiny.DECLARATION, tiny.SIZES, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[psad.PSAD, dict[str, list[float]], pathlib.Path]:
    """A fitted model, its history, and the file that ModelCheckpoint wrote."""
    path = tmp_path_factory.mktemp("checkpoint") / "best.keras"
    model = small()
    model.compile("adam", metrics=["ndcg@5", "mrr"], **EAGER)
    watched = {"monitor": "val_student_ndcg_5", "mode": "max"}
    history = model.fit(
        lists(),
        validation_data=lists(seed=5),
        epochs=3,
        verbose=0,
        callbacks=[
            tf.keras.callbacks.EarlyStopping(**watched, min_delta=10.0, patience=1),
            tf.keras.callbacks.ModelCheckpoint(str(path), **watched, save_best_only=True),
        ],
    )
    return model, history.history, path


def test_early_stopping_and_checkpoints_watch_the_validation_metrics(fitted):
    _, history, path = fitted
    assert len(history["val_student_ndcg_5"]) == 2  # no epoch is better by 10: one more is waited for
    assert path.is_file()


def test_the_history_has_means_of_epochs(fitted):
    _, history, _ = fitted
    fresh = small()
    fresh.compile("adam", **EAGER)
    first = fresh.fit(lists().take(1), verbose=0).history["loss"][0]
    second = fresh.fit(lists().take(1), verbose=0).history["loss"][0]
    assert history["loss"][0] == pytest.approx((first + second) / 2, rel=1e-4)
    assert first != pytest.approx(second, rel=1e-4)


def test_evaluate_gives_terms_and_the_metrics_of_student_and_teacher(fitted):
    model, history, _ = fitted
    found = model.evaluate(lists(seed=5), return_dict=True, verbose=0)
    assert found["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    expected = {f"{ranker}_{metric}" for ranker in ("student", "teacher") for metric in ("ndcg_5", "mrr")}
    assert expected | {"loss", "value", "student_listwise", "distillation"} <= set(found)
    batch = tiny.batch(8, 6, seed=5)
    scores = model.predict(lists(seed=5), verbose=0)["scores"][:8]
    where = batch["shown_position"].numpy() >= 0
    values = psad.metrics.per_list_metrics(scores, batch["labels"].numpy(), where=where)["ndcg@5"]
    assert found["student_ndcg_5"] == pytest.approx(np.nanmean(values), abs=1e-5)


def test_a_saved_model_gives_equal_outputs_and_trains_on(fitted, tmp_path):
    model, _, _ = fitted
    model.save(tmp_path / "m.keras")
    loaded = tf.keras.models.load_model(tmp_path / "m.keras")
    batch = tiny.batch(8, 6)
    np.testing.assert_array_equal(model.predict(batch, verbose=0)["scores"], loaded(batch)["scores"])
    np.testing.assert_array_equal(model.generate(batch).order, loaded.generate(batch).order)
    assert int(loaded.step) == int(model.step)
    again = [each.fit(lists(), verbose=0).history["loss"][0] for each in (model, loaded)]
    assert again[0] == pytest.approx(again[1], rel=1e-5)


def test_a_configuration_makes_an_equal_model():
    model = small(loss={"policy_weight": 0.3}, seed=7)
    twin = psad.PSAD.from_config(model.get_config())
    assert twin.config == model.config
    assert twin.config.seed == 7 and twin.config.model.teacher.slots == 3
    assert [v.shape for v in twin.trainable_variables] == [v.shape for v in model.trainable_variables]


def test_a_preset_is_an_architecture_that_arguments_change():
    model = psad.PSAD.from_preset("movielens", tiny.DECLARATION, tiny.SIZES, embedding_dim=8)
    assert model.config.model.embedding_dim == 8
    assert model.config.loss == psad.load_train_config("movielens").loss


def test_inputs_and_labels_may_come_as_a_pair(fitted):
    batch = tiny.batch(8, 6)
    labels = batch.pop("labels")
    pair, mapping = small(), small()
    losses = []
    for model, data in ((pair, (batch, labels)), (mapping, {**batch, "labels": labels})):
        model.compile("adam", **EAGER)
        losses.append(model.fit(tf.data.Dataset.from_tensors(data), verbose=0).history["loss"])
    assert losses[0] == losses[1]


def test_training_turns_dropout_on():
    model, batch = small(dropout_rate=0.5), tiny.batch(8, 6)
    quiet = model(batch)["scores"]
    np.testing.assert_array_equal(quiet, model(batch, training=False)["scores"])
    assert np.abs(quiet - model(batch, training=True)["scores"]).max() > 1e-3


def test_summary_counts_every_weight(fitted, capsys):
    model, _, _ = fitted
    model.summary()
    assert f"{model.count_params()} (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"embedding_dim": 9}, "does not divide"),
        ({"teacher": {"decoding": "best"}}, "'best' is not one of 'greedy'"),
        ({"teacher": {"slots": 3, "block_size": 9}}, "block_size"),
        ({"student": {"colour": 1}}, "unknown key 'colour'"),
        ({"loss": {"value_weight": -5.0}}, "value_weight"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(wrong, said):
    with pytest.raises(InputError, match=said):
        small(
            **{
                **wrong,
                **({"teacher": {**SMALL["teacher"], **wrong["teacher"]}} if "teacher" in wrong else {}),
            }
        )


def test_wrong_data_and_metrics_are_named():
    with pytest.raises(ValueError, match="ndgc"):
        small().compile(metrics=["ndgc@5"])
    batch = tiny.batch(4, 6)
    del batch["labels"]
    model = small()
    model.compile("adam", **EAGER)
    with pytest.raises(ValueError, match="need labels"):
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)


@pytest.mark.parametrize("part", ["teacher", "student", "user_profile_network", "reranker"])
def test_each_layer_is_rebuilt_from_its_configuration(part):
    model = small()
    layer = {
        "teacher": model.teacher,
        "student": model.reranker.student,
        "user_profile_network": model.reranker.user_profile_network,
        "reranker": model.reranker,
    }[part]
    data = tf.keras.utils.serialize_keras_object(layer)
    twin = tf.keras.utils.deserialize_keras_object(data)
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
