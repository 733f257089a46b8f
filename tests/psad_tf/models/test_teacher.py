"""The teacher: one code path for every block size, block-causal, cached, permutation-equivariant."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from psad_tf.decoding.blocks import STRATEGIES
from psad_tf.models.psad import PSAD
from tests import tiny


@pytest.fixture(scope="module")
def model() -> PSAD:
    return tiny.model(tiny.config(layers=2))


def memory_of(model: PSAD, batch: dict[str, tf.Tensor]):
    return model.memory(batch)


def plain_generate(
    model: PSAD, batch: dict[str, tf.Tensor], block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fills one slot at a time, list by list, recomputing the whole prefix: no cache, no shared state.

    Written apart from the decoder: every formula is spelled out with numpy from the layers' kernels.
    """
    memory, teacher = memory_of(model, batch), model.teacher
    mask = batch["mask"].numpy()
    orders, gains = [], []
    for row in range(len(mask)):
        items, count = memory.items[row].numpy(), int(mask[row].sum())
        length = teacher.slots(len(items))
        chosen: list[int] = []
        values: list[float] = []
        for slot in range(min(length, count)):
            begin = slot // block_size * block_size
            size = min(begin + block_size, length)
            before = [memory.start[row].numpy()] * block_size
            before += [dense(teacher.placed_item, items[each]) for each in chosen[:begin]]
            state = np.stack(before[:size]) + memory.positions[row, :size].numpy()
            block = np.arange(size) // block_size
            seen = (block[None] <= block[:, None]) & (np.arange(size) < count)
            for layer in teacher.decoder_layers:
                state = plain_layer(layer, state, items, mask[row], seen)
            query = dense(teacher.value_query, norm(teacher.decoder_norm, state)[slot])
            logits = memory.keys[row].numpy() @ query / np.sqrt(teacher.dim) + memory.bias[row].numpy()
            logits = logits + plain_pair(teacher.pair_influence, items, chosen)
            worth = sigmoid(logits) * sigmoid(10.0 * teacher.position_bias.slot_bias.numpy()[slot])
            free = mask[row] & ~np.isin(np.arange(len(items)), chosen)
            chosen.append(int(np.argmax(np.where(free, worth, -np.inf))))
            values.append(worth[chosen[-1]])
        orders.append(chosen + [-1] * (length - len(chosen)))
        gains.append(values + [0.0] * (length - len(chosen)))
    return np.array(orders), np.array(gains)


def plain_pair(layer, items: np.ndarray, placed: list[int]) -> np.ndarray:
    """What `placed` adds to the logit of every item: loops over pairs and heads."""
    sources, targets = items @ layer.source.kernel.numpy(), items @ layer.target.kernel.numpy()
    heads = [slice(c * layer.head_dim, (c + 1) * layer.head_dim) for c in range(layer.num_heads)]
    sums = np.array(
        [
            [sum(sources[j, head] @ target[head] for j in placed) / np.sqrt(layer.head_dim) for head in heads]
            for target in targets
        ]
    )
    hidden = np.maximum(dense(layer.hidden, sums), 0.0) - np.maximum(layer.hidden.bias.numpy(), 0.0)
    return (hidden @ layer.out.kernel.numpy() + sums @ layer.linear.kernel.numpy())[:, 0]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def dense(layer: tf.keras.layers.Dense, x: np.ndarray) -> np.ndarray:
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def norm(layer: tf.keras.layers.LayerNormalization, x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.epsilon) * layer.gamma.numpy() + layer.beta.numpy()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(layer, queries: np.ndarray, sequence: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    q, k, v = dense(layer.query, queries), dense(layer.key, sequence), dense(layer.value, sequence)
    size = layer.head_dim
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        logits = np.where(allowed, q[:, part] @ k[:, part].T / np.sqrt(size), -np.inf)
        heads.append(softmax(logits) @ v[:, part])
    return dense(layer.out, np.concatenate(heads, -1))


def plain_layer(layer, x: np.ndarray, items: np.ndarray, mask: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    normed = norm(layer.self_norm, x)
    x = x + attend(layer.self_attention, normed, normed, allowed)
    x = x + attend(layer.cross_attention, norm(layer.cross_norm, x), items, mask[None])
    hidden = np.maximum(dense(layer.feed_forward.hidden[0], norm(layer.feed_forward_norm, x)), 0.0)
    return x + dense(layer.feed_forward.out, hidden)


@pytest.mark.parametrize("block_size", [1, 2, 6])
def test_greedy_decoding_equals_a_plain_reimplementation(model, block_size):
    batch = tiny.batch(4, 8, shortest=4)
    decoded = model.generate(batch, block_size=block_size)
    order, values = plain_generate(model, batch, block_size)
    np.testing.assert_array_equal(decoded.order, order)
    np.testing.assert_allclose(decoded.values, values, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 6])
def test_cached_decoding_values_its_list_as_teacher_forcing_does(model, block_size, strategy):
    batch = tiny.batch(4, 9, shortest=3, seed=block_size)
    decoded = model.generate(batch, block_size=block_size, strategy=strategy, beam_width=3)
    forced = model.teacher.shown_values(memory_of(model, batch), decoded.order, block_size)
    np.testing.assert_allclose(decoded.values, forced, atol=1e-5)
    value = model.list_value(batch, decoded.order, block_size)
    np.testing.assert_allclose(value, decoded.values.numpy().sum(-1), atol=1e-5)


def values_of(model: PSAD, order: list[int], block_size: int) -> np.ndarray:
    memory = memory_of(model, tiny.batch(1, 8))
    return model.teacher.shown_values(memory, tf.constant([order]), block_size).numpy()[0]


@pytest.mark.slow
@pytest.mark.parametrize("pair_term", [False, True])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_only_earlier_items_move_a_value_and_inside_a_block_only_by_the_pair_term(block_size, pair_term):
    settings = tiny.config()
    teacher = dataclasses.replace(settings.model.teacher, pair_term=pair_term)
    model = tiny.model(
        dataclasses.replace(settings, model=dataclasses.replace(settings.model, teacher=teacher))
    )
    before = values_of(model, [0, 1, 2, 3, 4, 5], block_size)
    for slot in range(6):
        changed = [7 if place == slot else place for place in range(6)]
        moved = np.abs(values_of(model, changed, block_size) - before)
        end = min((slot // block_size + 1) * block_size, 6)
        assert (moved[:slot] == 0.0).all()
        inside = moved[slot + 1 : end]
        assert (inside > 1e-6).all() if pair_term else (inside == 0.0).all()
        if end < 6:
            assert moved[end:].max() > 1e-5


def test_the_policy_sees_only_earlier_blocks(model):
    memory = memory_of(model, tiny.batch(1, 8))
    before = model.teacher.policy_logits(memory, tf.constant([[0, 1, 2, 3, 4, 5]]), 2).numpy()
    after = model.teacher.policy_logits(memory, tf.constant([[0, 1, 7, 3, 4, 5]]), 2).numpy()
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_a_wide_beam_finds_the_list_of_the_largest_value(block_size):
    model = tiny.model(tiny.config(slots=3, block_size=block_size))
    batch = tiny.batch(8, 5, seed=9)
    found = model.generate(batch, strategy="beam", beam_width=60, block_size=block_size)
    memory = memory_of(model, batch)
    orders = list(itertools.permutations(range(5), 3))
    values = [
        model.teacher.shown_values(memory, tf.tile([order], [8, 1]), block_size).numpy().sum(-1)
        for order in orders
    ]
    np.testing.assert_allclose(found.values.numpy().sum(-1), np.max(values, 0), atol=1e-5)
    np.testing.assert_array_equal(found.order, np.array(orders)[np.argmax(values, 0)])


def test_wider_beams_and_assignments_are_worth_at_least_the_greedy_list(model):
    batch = tiny.batch(16, 8, seed=8)
    greedy = model.generate(batch, strategy="greedy", block_size=6)
    one = model.generate(batch, strategy="beam", beam_width=1, block_size=6)
    np.testing.assert_array_equal(greedy.order, one.order)
    value = greedy.values.numpy().sum(-1)
    for options in ({"strategy": "beam", "beam_width": 40}, {"strategy": "assignment"}):
        better = model.generate(batch, block_size=6, **options).values.numpy().sum(-1)
        assert (better >= value - 1e-6).all() or options["strategy"] == "beam"
        assert better.mean() > value.mean()


@pytest.mark.slow
def test_without_influence_inside_a_block_assignment_is_the_optimum():
    settings = tiny.config(slots=3, block_size=3)
    teacher = dataclasses.replace(settings.model.teacher, pair_term=False)
    model = tiny.model(
        dataclasses.replace(settings, model=dataclasses.replace(settings.model, teacher=teacher))
    )
    batch = tiny.batch(8, 5, seed=9)
    one = model.generate(batch, strategy="assignment")
    best = model.generate(batch, strategy="beam", beam_width=60)
    np.testing.assert_allclose(one.values.numpy().sum(-1), best.values.numpy().sum(-1), atol=1e-5)


def test_an_unknown_strategy_is_refused(model):
    with pytest.raises(ValueError, match="strategy: must be one of greedy, assignment, beam"):
        model.generate(tiny.batch(1, 4), strategy="sampled")


def test_the_graph_does_not_grow_with_the_number_of_blocks(model):
    def operations(block_size: int) -> int:
        decode = tf.function(lambda batch: model.generate(batch, block_size=block_size))
        graph = decode.get_concrete_function(tiny.batch(2, 6)).graph.as_graph_def()
        return len(graph.node) + sum(len(each.node_def) for each in graph.library.function)

    two_blocks, six_blocks = operations(3), operations(1)
    assert six_blocks < two_blocks  # a block of one slot is less than one of three


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_decoding_under_xla_gives_the_same_list(model, strategy):
    batch = tiny.batch(4, 8, shortest=5, seed=10)
    options = {"strategy": strategy, "beam_width": 3}
    compiled = tf.function(lambda encoded: model.generate(encoded, **options), jit_compile=True)(batch)
    plain = model.generate(batch, **options)
    np.testing.assert_array_equal(compiled.order, plain.order)
    np.testing.assert_allclose(compiled.scores, plain.scores, atol=1e-5)


SIZES_APART = tiny.batch(4, 8, shortest=5, seed=10), tiny.batch(2, 4, shortest=2, seed=11)  # 4 is below L


def any_size() -> dict[str, tf.TensorSpec]:
    """What a graph knows that is traced for any number of lists and candidates."""
    one, other = SIZES_APART
    return {
        name: tf.TensorSpec(
            [
                size if size == also else None
                for size, also in zip(each.shape, other[name].shape, strict=True)
            ],
            each.dtype,
        )
        for name, each in one.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "block_size"), [("greedy", 1), ("assignment", 2), ("beam", 2)])
def test_a_graph_for_lists_of_any_size_gives_the_same_list(model, strategy, block_size):
    options = {"strategy": strategy, "beam_width": 3, "block_size": block_size}
    graph = tf.function(
        lambda encoded: model.generate(encoded, **options),
        input_signature=[any_size()],
        autograph=False,
    )
    for batch in SIZES_APART:
        found, expected = graph(batch), model.generate(batch, **options)
        slots = expected.order.shape[1]
        np.testing.assert_array_equal(found.order[:, :slots], expected.order)
        assert (found.order[:, slots:].numpy() == -1).all()
        np.testing.assert_allclose(found.values[:, :slots], expected.values, atol=1e-5)
        ranked = [np.argsort(-each.scores.numpy(), kind="stable") for each in (found, expected)]
        np.testing.assert_array_equal(*ranked)


@pytest.mark.slow
def test_a_graph_for_lists_of_any_size_gives_the_same_losses(model):
    graph = tf.function(
        lambda batch, ties: model.compute_losses(batch, None, ties, tf.constant(1.0)),
        input_signature=[any_size(), tf.TensorSpec([None, None])],
        autograph=False,
    )
    for batch in SIZES_APART:
        ties = tf.random.stateless_uniform(tf.shape(batch["labels"]), [1, 2])
        expected = model.compute_losses(batch, None, ties, tf.constant(1.0))
        for name, value in graph(batch, ties).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


def test_padding_that_gives_a_short_list_more_slots_leaves_the_losses_as_they_are(model):
    batch = tiny.batch(4, 5, shortest=2, seed=9)
    ties = tf.random.stateless_uniform([4, 5], [1, 2])
    plain = model.compute_losses(batch, None, ties, tf.constant(1.0))
    more = model.compute_losses(tiny.padded(batch, 3), None, tf.pad(ties, [[0, 0], [0, 3]]), tf.constant(1.0))
    for name in plain:
        np.testing.assert_allclose(more[name], plain[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    lists=st.integers(1, 4),
    candidates=st.integers(2, 9),
    extra=st.integers(0, 4),
    block_size=st.integers(1, 6),
    strategy=st.sampled_from(STRATEGIES),
    seed=st.integers(0, 999),
)
def test_any_mask_gives_a_legal_list_that_order_and_padding_do_not_change(
    model, lists, candidates, extra, block_size, strategy, seed
):
    options = {"block_size": block_size, "strategy": strategy, "beam_width": 3}
    batch = tiny.batch(lists, candidates, seed=seed, shortest=1)
    shuffle = np.random.default_rng(seed).permutation(candidates + extra)  # masks with holes
    other = tiny.permuted(tiny.padded(batch, extra), shuffle)
    one, two = model.generate(batch, **options), model.generate(other, **options)
    for order, mask in zip(two.order.numpy(), other["mask"].numpy(), strict=True):
        length = min(6, mask.sum())
        assert (order[length:] == -1).all() and mask[order[:length]].all()
        assert len(set(order[:length])) == length
    slots = one.order.shape[1]
    np.testing.assert_allclose(two.values[:, :slots], one.values, atol=1e-5)
    np.testing.assert_array_equal(np.where(two.order >= 0, shuffle[two.order], -1)[:, :slots], one.order)
    assert (two.order.numpy()[:, slots:] == -1).all()
    assert np.isfinite(two.scores).all()
    assert (two.scores.numpy()[~other["mask"].numpy()] < 0).all()
    assert (two.scores.numpy()[other["mask"].numpy()] >= 0).all()
