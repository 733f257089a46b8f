"""The joint train step: gradients of distillation, XLA, mixed precision, determinism."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from psad_tf import losses
from psad_tf.config import DistillationConfig, LossConfig, OptimizerConfig
from psad_tf.errors import InputError
from psad_tf.features import LabelDeclaration, LabelRule
from psad_tf.models.psad import PSAD
from psad_tf.training.optimizer import make_optimizer
from tests import tiny


def compiled(settings, jit: bool = False) -> PSAD:
    model = tiny.model(settings)
    optimizer = make_optimizer(settings.optimizer, settings.mixed_precision)
    model.compile(optimizer, metrics=(), jit_compile=jit)
    return model


def steps(model: PSAD, count: int, first: int = 0) -> list[dict[str, float]]:
    train = model.make_train_function()
    logs = []
    for index in range(first, first + count):
        data = iter(tf.data.Dataset.from_tensors(tiny.batch(8, 6, seed=index, shortest=4)))
        train(data)
        logs.append({name: float(term.last.numpy()) for name, term in model.loss_terms.items()})
    return logs


def gradients_of(model: PSAD, term: str, variables: list[tf.Variable]) -> list[tf.Tensor | None]:
    batch = tiny.batch(8, 6)
    with tf.GradientTape() as tape:
        loss = model.compute_losses(batch, None, tf.zeros([8, 6]), tf.constant(1.0))[term]
    return tape.gradient(loss, variables)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["forced", "generated"])
def test_distillation_gives_the_teacher_and_the_profile_network_no_gradient_and_the_student_some(source):
    model = tiny.model(tiny.config(distillation=DistillationConfig(source=source)))
    others = model.teacher.trainable_variables + model.reranker.user_profile_network.trainable_variables
    assert all(gradient is None for gradient in gradients_of(model, "distillation", others))
    student = model.reranker.student
    parts = student.candidate.trainable_variables + student.above.trainable_variables
    gradients = gradients_of(model, "distillation", parts)
    assert all(float(tf.norm(gradient)) > 1e-7 for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("term", ["student_listwise", "student_pointwise", "distillation"])
def test_the_students_losses_reach_the_profile_network_only_without_stop_gradient(term):
    settings = tiny.config()
    student = dataclasses.replace(settings.model.student, stop_gradient=False)
    open_ = dataclasses.replace(settings, model=dataclasses.replace(settings.model, student=student))
    for config, reached in ((settings, False), (open_, True)):
        model = tiny.model(config)
        profile = model.reranker.user_profile_network.trainable_variables
        found = [gradient is not None for gradient in gradients_of(model, term, profile)]
        assert any(found) == reached


@pytest.mark.parametrize("term", ["value", "policy"])
def test_the_teachers_losses_reach_the_profile_network(term):
    model = tiny.model()
    gate = model.reranker.user_profile_network.gate.trainable_variables
    assert all(float(tf.norm(gradient)) > 1e-7 for gradient in gradients_of(model, term, gate))


def terms_of(model: PSAD, batch: dict[str, tf.Tensor]) -> dict[str, float]:
    shape = tf.shape(batch["labels"])
    ties = tf.random.stateless_uniform(shape, [1, 2])
    return {k: float(v) for k, v in model.compute_losses(batch, None, ties, tf.constant(1.0)).items()}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["forced", "generated"])
def test_what_a_candidate_that_was_not_shown_says_changes_no_loss(source):
    model = tiny.model(tiny.config(distillation=DistillationConfig(source=source)))
    batch = tiny.batch(8, 9, shown=3)
    unshown = tf.cast(batch["shown_position"] < 0, tf.float32)
    other = {**batch, "labels": batch["labels"] + 2.0 * unshown, "negatives": batch["negatives"] + unshown}
    assert terms_of(model, other) == terms_of(model, batch)
    shown = {**batch, "labels": batch["labels"] + 2.0 * (1.0 - unshown)}
    assert terms_of(model, shown)["value"] != terms_of(model, batch)["value"]


def test_a_term_of_no_weight_is_not_computed():
    model = tiny.model(tiny.config(loss=LossConfig(), distillation=DistillationConfig(source="none")))
    assert set(terms_of(model, tiny.batch(2, 5))) == {
        "loss",
        "value",
        "student_listwise",
        "student_pointwise",
    }


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_ranking_one_list_makes_every_variable_that_training_uses(block_size):
    """An optimizer is built for the variables that are there before the first step."""
    model = PSAD(tiny.DECLARATION, tiny.SIZES, tiny.config(slots=4, block_size=block_size))
    model.rank(tiny.batch(1, 4))
    before = len(model.trainable_variables)
    terms_of(model, tiny.batch(2, 9))
    assert len(model.trainable_variables) == before


@pytest.mark.slow
def test_the_value_loss_recovers_a_planted_substitute():
    """Two items, each liked with probability 0.6 alone and 0.2 after the other; slot 1 is seen by half."""
    lists = 40  # of one user, in as many of which items are liked as is probable
    slots = np.repeat([[0, 1], [1, 0]], lists // 2, axis=0)
    share = np.tile(np.arange(0.0, 1.0, 2 / lists) + 1 / lists, 2)[:, np.newaxis]
    liked = share < np.where(slots == 0, 0.6, 0.5 * 0.2)
    batch = {key: tf.repeat(value, lists, 0) for key, value in tiny.batch(1, 2).items()}
    items = tf.constant(np.tile([[[5], [9]]], (lists, 1, 1)), tf.int32)
    batch |= {
        "item_id": items,
        "genre": tf.zeros([lists, 2, 2], tf.int32),
        "candidate_dense": tf.zeros([lists, 2, 2]),
        "shown_position": tf.constant(slots, tf.int32),
        "labels": tf.constant(liked, tf.float32),
    }
    declaration = dataclasses.replace(
        tiny.DECLARATION, label=LabelDeclaration(grades=(LabelRule("click", 1.0, 1),))
    )
    settings = tiny.config(
        slots=2,
        block_size=2,
        optimizer=OptimizerConfig(
            learning_rate=0.03, embedding_learning_rate=0.03, warmup_steps=0, decay_steps=200
        ),
        loss=LossConfig(listwise_weight=0.0, pointwise_weight=0.0),
        distillation=DistillationConfig(source="none"),
    )
    tf.keras.utils.set_random_seed(1)
    model = PSAD(declaration, tiny.SIZES, settings)
    model.rank(tiny.batch(2, 2))
    model.compile(optimizer=make_optimizer(settings.optimizer))
    step = tf.function(model.train_step)
    for _ in range(200):
        step(batch)
    for order in ([0, 1], [1, 0]):
        values = model.teacher.shown_values(model.memory(batch), tf.tile([order], [lists, 1]))
        np.testing.assert_allclose(tf.reduce_mean(values, 0), [0.6, 0.1], rtol=0, atol=0.001)


@pytest.mark.parametrize(
    ("block_size", "orders"),
    [
        (4, ([0, 1, 2, 4], [0, 2, 4, 1], [0, 4, 1, 2])),
        (2, ([0, 1, 2, 4], [0, 1, 4, 2])),
        (3, ([0, 1, 2, 4], [0, 2, 1, 4])),
    ],
)
def test_swapping_equals_in_the_ideal_list_leaves_the_slot_loss_unchanged(block_size, orders):
    labels, mask = tf.constant([[2.0, 1.0, 1.0, 0.0, 1.0]]), tf.ones([1, 5], tf.bool)
    logits = tf.random.stateless_normal([1, 4, 5], seed=[1, 2])
    found = set()
    for order in orders:
        order = tf.constant([order])
        available = losses.slot_availability(order, block_size, where=mask)
        targets, weights = losses.slot_targets(labels, order, where=available)
        loss = losses.slot_cross_entropy(logits, targets, where=available, weights=weights)
        found.add(round(float(loss), 5))
    assert len(found) == 1


def test_the_order_of_equals_changes_no_loss_of_a_one_shot_teacher():
    model, batch = tiny.model(tiny.config(slots=6, block_size=6)), tiny.batch(8, 6, shortest=4)
    terms = [
        model.compute_losses(batch, None, tf.random.stateless_uniform([8, 6], [seed, 0]), tf.constant(1.0))
        for seed in range(3)
    ]
    for name, value in terms[0].items():
        for other in terms[1:]:
            assert float(other[name]) == pytest.approx(float(value), rel=1e-5), name


class Straight(NamedTuple):
    """A plain run of four steps with dropout.

    Attributes:
        checkpoint: After the first two.
        logs: Of the four.
        weights: After the four.
    """

    checkpoint: str
    logs: list[dict[str, float]]
    weights: list[np.ndarray]


WITH_DROPOUT = tiny.config(slots=4, dropout=0.2)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Straight:
    model = compiled(WITH_DROPOUT)
    logs = steps(model, 2)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.save(str(tmp_path_factory.mktemp("straight") / "ckpt"))
    logs += steps(model, 2, first=2)
    return Straight(path, logs, [np.array(each) for each in model.trainable_variables])


@pytest.mark.slow
def test_xla_and_plain_steps_agree(straight):
    jitted = compiled(WITH_DROPOUT, jit=True)
    for a, b in zip(straight.logs, steps(jitted, 4), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    for a, b in zip(straight.weights, jitted.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3, err_msg=b.name)


@pytest.mark.slow
def test_a_declaration_without_dense_features_or_profile_trains_under_xla():
    bare = dataclasses.replace(
        tiny.DECLARATION,
        context_categorical=(),
        context_dense=(),
        history=dataclasses.replace(tiny.DECLARATION.history, dense=()),
        candidate_dense=(),
    )
    settings = tiny.smallest()
    batch = tiny.batch(8, 6)
    for key in ("context_dense", "history_dense", "candidate_dense"):
        batch[key] = batch[key][..., :0]
    model = PSAD(bare, tiny.SIZES, settings)
    model.rank(batch)
    model.compile(optimizer=make_optimizer(settings.optimizer), jit_compile=True)
    train = model.make_train_function()
    assert np.isfinite(float(train(iter(tf.data.Dataset.from_tensors(batch)))["loss"]))


@pytest.mark.slow
def test_same_seed_gives_the_same_weights_bit_for_bit(straight):
    again = compiled(WITH_DROPOUT)
    assert steps(again, 4) == straight.logs
    for a, b in zip(straight.weights, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_restoring_a_checkpoint_continues_bit_for_bit(straight):
    resumed = compiled(WITH_DROPOUT)
    resumed.optimizer.build(resumed.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer)
    checkpoint.restore(straight.checkpoint).assert_consumed()
    assert steps(resumed, 2, first=2) == straight.logs[2:]
    for a, b in zip(straight.weights, resumed.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_steps_are_finite_and_keep_float32_weights(precision):
    tf.keras.mixed_precision.set_global_policy(f"mixed_{precision}")
    try:
        model = compiled(tiny.config(slots=4, mixed_precision=precision))
        logs = steps(model, 3)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    # Loss scaling starts too high for float16 on purpose and leaves out the steps that overflow.
    overflows = {"gradient_norm"} if precision == "float16" else set()
    assert all(np.isfinite([each[name] for name in each.keys() - overflows]).all() for each in logs)
    assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
    assert {each["value"] for each in logs} != {logs[0]["value"]}


@pytest.mark.slow
def test_the_distillation_weight_ramps_up_from_above_zero():
    model = compiled(tiny.smallest(distillation=DistillationConfig(weight=2.0, ramp_steps=3)))
    assert [each["distillation_weight"] for each in steps(model, 5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.slow
def test_training_lowers_the_loss():
    model = compiled(tiny.config(slots=4, optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=0)))
    train = model.make_train_function()
    data = tf.data.Dataset.from_tensors(tiny.batch(16, 6))
    logs = [{k: float(v) for k, v in train(iter(data)).items()} for _ in range(40)]
    for term in ("value", "policy", "student_listwise", "student_pointwise", "distillation"):
        assert logs[-1][term] < logs[0][term] * 0.95, term


def weights_of(model: PSAD) -> dict[str, list[np.ndarray]]:
    profile = model.reranker.user_profile_network
    parts = {"profile": profile, "teacher": model.teacher, "student": model.reranker.student}
    return {name: [np.array(weight) for weight in part.weights] for name, part in parts.items()}


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_a_frozen_tutor_teaches_a_student_of_its_own_profile_network(stop_gradient):
    # As a trainer makes it: a tutor itself distils nothing.
    tutor = tiny.model(tiny.config(distillation=DistillationConfig(source="none")), seed=5)
    settings = tiny.config(distillation=DistillationConfig(mode="offline", ramp_steps=0))
    settings = settings.changed({"model": {"student": {"stop_gradient": stop_gradient}}})
    tf.keras.utils.set_random_seed(3)
    model = PSAD(tiny.DECLARATION, tiny.SIZES, settings, tutor)
    model.compile(optimizer=make_optimizer(settings.optimizer), jit_compile=False)
    taught, started = weights_of(tutor), weights_of(model)
    logs = steps(model, 3)
    ended = weights_of(model)
    assert all(same(taught[part], weights_of(tutor)[part]) for part in taught)
    assert same(ended["teacher"], taught["teacher"]) and same(started["profile"], taught["profile"])
    # Under stop_gradient nothing trains the profile network: it has to be the tutor's.
    assert same(ended["profile"], taught["profile"]) is stop_gradient
    assert not same(ended["student"], started["student"])
    assert logs[0]["distillation"] > 0.0 and "value" not in logs[0]


def test_a_tutor_of_another_architecture_is_refused():
    wide = tiny.config().changed({"model": {"embedding_dim": 16}})
    with pytest.raises(InputError, match="tutor: its architecture"):
        PSAD(tiny.DECLARATION, tiny.SIZES, wide, tiny.model(seed=5))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized_graphs")
def test_a_steps_gradients_are_the_same_bits_however_often_they_are_computed():
    """Threads may end in any order; sums may not depend on it.

    Of three gradients or more, TensorFlow's AddN starts with one whose buffer it may overwrite. Those of
    `tf.squeeze` and `tf.expand_dims` share a buffer, which comes free at no certain time; slices' do not.
    """
    model, batch = compiled(tiny.config(slots=4, dropout=0.1)), tiny.batch(16, 8)

    @tf.function
    def gradients() -> list[tf.Tensor]:
        ties = tf.zeros_like(batch["labels"])
        with tf.GradientTape() as tape:
            loss = model.compute_losses(batch, tf.constant([1, 2]), ties, tf.constant(0.5))["loss"]
        found = tape.gradient(loss, model.trainable_variables)
        return [tf.convert_to_tensor(each) for each in found if each is not None]

    expected = [each.numpy() for each in gradients()]
    for _ in range(400):
        for one, other in zip(expected, gradients(), strict=True):
            np.testing.assert_array_equal(one, other)
