"""What every neural baseline must do: see sets as sets, ignore padding, learn, choose nothing twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.baselines import NEURAL_BASELINES, Baseline
from psad_tf.config import OptimizerConfig
from psad_tf.training.optimizer import make_optimizer
from tests import tiny

pytestmark = pytest.mark.slow

GENERATORS = ("seq2slate", "nar4rec")
SCORERS = tuple(name for name in NEURAL_BASELINES if name not in GENERATORS)


def model(name: str, **changes: object) -> Baseline:
    """A built baseline with weights large enough that every part matters."""
    tf.keras.utils.set_random_seed(3)
    built = NEURAL_BASELINES[name](
        tiny.DECLARATION, tiny.SIZES, dataclasses.replace(tiny.config(slots=6), **changes)
    )
    built(tiny.batch(2, 6))
    built.list_loss(tiny.batch(2, 6), None, tf.zeros([2, 6]))
    rng = np.random.default_rng(3)
    for variable in built.trainable_variables:
        if "gamma" not in variable.name:
            variable.assign(rng.normal(scale=0.4, size=variable.shape))
    return built


@pytest.mark.parametrize("name", NEURAL_BASELINES)
def test_permuting_the_candidates_permutes_the_scores_and_nothing_else(name):
    built, batch = model(name), tiny.batch(5, 6, shortest=6)
    order = np.array([3, 0, 5, 1, 4, 2])
    expected = built.rank(batch).numpy()[:, order]
    np.testing.assert_allclose(built.rank(tiny.permuted(batch, order)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NEURAL_BASELINES)
def test_padding_changes_no_score_and_ranks_last(name):
    built, batch = model(name), tiny.batch(5, 6, shortest=3)
    plain = built.rank(batch).numpy()
    padded = built.rank(tiny.padded(batch, 4)).numpy()
    mask = batch["mask"].numpy()
    ranks = np.argsort(np.argsort(-np.where(mask, plain, -np.inf)))
    padded_ranks = np.argsort(np.argsort(-padded))[:, :6]
    np.testing.assert_array_equal(ranks[mask], padded_ranks[mask])
    if name in SCORERS:
        np.testing.assert_allclose(padded[:, :6][mask], plain[mask], rtol=1e-4, atol=1e-4)
    assert (np.where(mask, plain, np.inf).min(1) > np.where(mask, -np.inf, plain).max(1)).all()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_chooses_every_candidate_once_and_padding_never(name):
    batch = tiny.batch(8, 9, shortest=2)
    order, _ = model(name).generate(batch)
    for row, mask in zip(order.numpy(), batch["mask"].numpy(), strict=True):
        chosen = row[row >= 0]
        assert len(set(chosen)) == len(chosen) == min(mask.sum(), 6)
        assert mask[chosen].all()
        assert (row[len(chosen) :] == -1).all()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generators_ranking_begins_with_its_list(name):
    built, batch = model(name), tiny.batch(4, 9, shortest=9)
    order, _ = built.generate(batch)
    np.testing.assert_array_equal(np.argsort(-built.rank(batch).numpy(), kind="stable")[:, :6], order)


@pytest.mark.parametrize("name", NEURAL_BASELINES)
def test_training_lowers_the_loss_and_reaches_every_weight(name):
    tf.keras.utils.set_random_seed(3)
    settings = tiny.config(optimizer=OptimizerConfig(0.01, 0.01, warmup_steps=0))
    built = NEURAL_BASELINES[name](tiny.DECLARATION, tiny.SIZES, settings)
    batch = tiny.batch(16, 6)
    built(batch)
    built.list_loss(batch, None, tf.zeros([16, 6]))
    built.compile(optimizer=make_optimizer(settings.optimizer))
    built.optimizer.build(built.trainable_variables)
    before = [variable.numpy() for variable in built.trainable_variables]
    train = built.make_train_function()
    data = tf.data.Dataset.from_tensors(batch)
    losses = [float(train(iter(data))["loss"]) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    for old, variable in zip(before, built.trainable_variables, strict=True):
        assert not np.array_equal(old, variable.numpy()), variable.name


@pytest.mark.parametrize("name", NEURAL_BASELINES)
def test_a_candidate_that_was_not_shown_changes_no_loss_by_its_label(name):
    built, batch = model(name), partly_shown(tiny.batch(8, 6))
    ties = tf.constant(np.random.default_rng(0).random((8, 6)), tf.float32)
    unshown = tf.cast(batch["shown_position"] < 0, tf.float32)
    liked = {**batch, "labels": batch["labels"] + 2.0 * unshown, "negatives": batch["negatives"] + unshown}
    expected = float(built.list_loss(batch, None, ties))
    assert float(built.list_loss(liked, None, ties)) == pytest.approx(expected, rel=1e-6)
    shown = tf.cast(batch["shown_position"] >= 0, tf.float32)
    relabelled = {**batch, "labels": (2.0 - batch["labels"]) * shown}
    assert float(built.list_loss(relabelled, None, ties)) != pytest.approx(expected, rel=1e-3)


def partly_shown(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same lists, of which the even candidates were shown, the last of them first."""
    n = batch["mask"].shape[1]
    slots = np.where(np.arange(n) % 2 == 0, (n - 1 - np.arange(n)) // 2, -1)
    shown = np.broadcast_to(slots >= 0, batch["mask"].shape)
    position = tf.constant(np.broadcast_to(slots, shown.shape), tf.int32)
    labels = {key: tf.where(shown, batch[key], 0.0) for key in ("labels", "negatives")}
    return {**batch, **labels, "shown_position": tf.where(batch["mask"], position, -1)}


def test_the_debiased_network_learns_the_slots_bias_and_ranks_without_it():
    """Clicks that depend on the slot alone teach the slots' logits, not the scores."""
    tf.keras.utils.set_random_seed(3)
    settings = tiny.config(optimizer=OptimizerConfig(0.05, 1e-9, warmup_steps=0))
    built = NEURAL_BASELINES["pointwise_debiased"](tiny.DECLARATION, tiny.SIZES, settings)
    rng = np.random.default_rng(0)
    batch = tiny.batch(256, 4)
    slots = np.argsort(rng.random((256, 4)), axis=1)
    batch["shown_position"] = tf.constant(slots, tf.int32)
    batch["labels"] = tf.constant(rng.random((256, 4)) < 0.8 * 0.5**slots, tf.float32)
    built(batch)
    built.compile(optimizer=make_optimizer(settings.optimizer))
    built.optimizer.build(built.trainable_variables)
    train, data = built.make_train_function(), tf.data.Dataset.from_tensors(batch)
    for _ in range(60):
        train(iter(data))
    logits = built.slot_logits.numpy()[:4]
    assert (np.diff(logits) < -0.2).all()
    moved = {**batch, "shown_position": tf.reverse(batch["shown_position"], [1])}
    np.testing.assert_array_equal(built.rank(moved), built.rank(batch))


@pytest.mark.parametrize("name", ["dlcm", "seq2slate"])
def test_xla_and_plain_scores_agree(name):
    built, batch = model(name), tiny.batch(4, 6, shortest=4)
    compiled = tf.function(built.rank, jit_compile=True)
    np.testing.assert_allclose(compiled(batch), built.rank(batch), rtol=1e-4, atol=1e-4)


def test_the_pointwise_model_does_not_see_other_candidates_and_the_rest_do():
    batch = tiny.batch(4, 6, shortest=6)
    changed = dict(batch)
    changed["item_id"] = tf.concat([batch["item_id"][:, :5], batch["item_id"][:, 5:] % 7 + 20], 1)
    for name in SCORERS:
        built = model(name)
        difference = np.abs(built.rank(changed).numpy() - built.rank(batch).numpy())[:, :5].max()
        assert (difference < 1e-6) == name.startswith("pointwise"), name


def test_contrast_one_puts_unlike_items_after_the_first():
    built = model("nar4rec")
    batch = tiny.batch(1, 6, shortest=6)
    batch["item_id"] = tf.constant([[[5], [5], [5], [9], [5], [5]]])
    for key in ("genre", "candidate_dense", "initial_rank"):
        batch[key] = tf.zeros_like(batch[key])
    built.contrast = 0.999
    order, _ = built.generate(batch)
    assert int(np.flatnonzero(order.numpy()[0] == 3)[0]) <= 1
