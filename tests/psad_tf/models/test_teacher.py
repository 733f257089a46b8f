"""The teacher: one code path for every block size, block-causal, cached, permutation-equivariant."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from psad_tf import losses
from psad_tf.layers.attention import masked_softmax
from psad_tf.models.psad import PSAD
from tests import tiny


@pytest.fixture(scope="module")
def model() -> PSAD:
    return tiny.model(tiny.config(layers=2))


def memory_of(model: PSAD, batch: dict[str, tf.Tensor]):
    return model.teacher.encode(model.profile(batch), batch["mask"], batch["initial_rank"])


def plain_autoregressive(model: PSAD, batch: dict[str, tf.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Decodes one slot at a time, list by list, recomputing the whole prefix: no cache, no blocks.

    Written apart from the decoder: attention is spelled out with numpy from the layers' kernels.
    """
    memory = memory_of(model, batch)
    teacher = model.teacher
    items, mask = memory.items.numpy(), batch["mask"].numpy()
    orders, distributions = [], []
    for row in range(len(items)):
        chosen: list[int] = []
        rows = []
        count = int(mask[row].sum())
        for slot in range(teacher.slots(items.shape[1])):
            prefix = [memory.start[row].numpy()] + [
                dense(teacher.placed_item, items[row, each]) for each in chosen
            ]
            inputs = np.stack(prefix[: slot + 1]) if len(prefix) > slot else None
            if inputs is None or slot >= count:
                orders.append(-1)
                continue
            inputs = inputs + memory.positions[row, : slot + 1].numpy()
            state = inputs
            for layer in teacher.decoder_layers:
                causal = np.tril(np.ones([len(state), len(state)], bool))
                state = plain_layer(layer, state, items[row], mask[row], causal)
            logits = pointed(model, memory, row, norm(teacher.decoder_norm, state)[-1])
            allowed = mask[row] & ~np.isin(np.arange(len(mask[row])), chosen)
            probabilities = softmax(np.where(allowed, logits, -np.inf))
            rows.append(probabilities)
            chosen.append(int(np.argmax(probabilities)))
            orders.append(chosen[-1])
        distributions.append(
            np.array(rows + [np.zeros(items.shape[1])] * (teacher.slots(items.shape[1]) - len(rows)))
        )
    return np.array(orders).reshape(len(items), -1), np.array(distributions)


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
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        logits = np.where(allowed, q[:, part] @ k[:, part].T / np.sqrt(size), -np.inf)
        heads.append(softmax(logits) @ v[:, part])
    return dense(layer.out, np.concatenate(heads, -1))


def pointed(model: PSAD, memory, row: int, states: np.ndarray) -> np.ndarray:
    logits = dense(model.teacher.pointer_query, states) @ memory.keys[row].numpy().T
    return logits / np.sqrt(model.teacher.dim) + memory.bias[row].numpy()


def plain_layer(layer, x: np.ndarray, items: np.ndarray, mask: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    normed = norm(layer.self_norm, x)
    x = x + attend(layer.self_attention, normed, normed, allowed)
    x = x + attend(layer.cross_attention, norm(layer.cross_norm, x), items, mask[None])
    hidden = np.maximum(dense(layer.feed_forward.hidden[0], norm(layer.feed_forward_norm, x)), 0.0)
    return x + dense(layer.feed_forward.out, hidden)


def test_block_of_one_equals_a_plain_autoregressive_decoder(model):
    batch = tiny.batch(4, 8, shortest=4)
    decoded = model.generate(batch, block_size=1)
    order, probabilities = plain_autoregressive(model, batch)
    np.testing.assert_array_equal(decoded.order, order)
    # Slots past the end of a list choose nothing; their distributions are not compared.
    filled = order >= 0
    np.testing.assert_allclose(decoded.probabilities.numpy()[filled], probabilities[filled], atol=1e-5)


def plain_one_shot(model: PSAD, batch: dict[str, tf.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Every slot's distribution from one pass, then the largest discounted entries that are still free."""
    memory, teacher, mask = memory_of(model, batch), model.teacher, batch["mask"].numpy()
    orders, distributions = [], []
    for row in range(len(mask)):
        state = memory.start[row].numpy() + memory.positions[row].numpy()
        for layer in teacher.decoder_layers:
            filled = np.arange(len(state)) < mask[row].sum()
            seen = np.broadcast_to(filled, [len(state), len(state)])
            state = plain_layer(layer, state, memory.items[row].numpy(), mask[row], seen)
        logits = pointed(model, memory, row, norm(teacher.decoder_norm, state))
        distributions.append(softmax(np.where(mask[row], logits, -np.inf)))
        order = np.full(len(state), -1)
        worth = distributions[-1] / np.log2(2.0 + np.arange(len(state)))[:, np.newaxis]
        for place in np.argsort(-worth[: mask[row].sum()], axis=None):
            slot, candidate = divmod(int(place), mask.shape[1])
            if order[slot] < 0 and candidate not in order:
                order[slot] = candidate
        orders.append(order)
    return np.array(orders), np.array(distributions)


def test_block_of_all_slots_equals_a_plain_one_shot_pointer(model):
    batch = tiny.batch(4, 8, shortest=3)
    decoded = model.generate(batch, block_size=6)
    order, probabilities = plain_one_shot(model, batch)
    np.testing.assert_allclose(decoded.probabilities, probabilities, atol=1e-5)
    np.testing.assert_array_equal(decoded.order, order)


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 6])
def test_cached_decoding_equals_forcing_its_own_list(model, block_size):
    batch = tiny.batch(4, 9, shortest=6, seed=block_size)
    decoded = model.generate(batch, block_size=block_size)
    logits = model.teacher.forced_logits(memory_of(model, batch), decoded.order, block_size)
    available = losses.slot_availability(decoded.order, batch["mask"], block_size)
    np.testing.assert_allclose(masked_softmax(logits, available), decoded.probabilities, atol=1e-5)


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_changing_an_item_changes_only_later_blocks(model, block_size):
    batch = tiny.batch(1, 8)
    memory = memory_of(model, batch)
    order = tf.constant([[0, 1, 2, 3, 4, 5]])
    before = model.teacher.forced_logits(memory, order, block_size).numpy()
    for slot in range(6):
        changed = order.numpy().copy()
        changed[0, slot] = 7
        after = model.teacher.forced_logits(memory, tf.constant(changed), block_size).numpy()
        end_of_block = (slot // block_size + 1) * block_size
        np.testing.assert_array_equal(before[:, :end_of_block], after[:, :end_of_block])
        if end_of_block < 6:
            assert np.abs(before[:, end_of_block:] - after[:, end_of_block:]).max() > 1e-4


@pytest.mark.parametrize("strategy", ["greedy", "assignment", "beam"])
@pytest.mark.parametrize("block_size", [1, 2, 5, 6])
def test_lists_hold_each_candidate_once_and_no_padding(model, strategy, block_size):
    batch = tiny.batch(6, 9, shortest=1, seed=7)
    order = model.generate(batch, strategy=strategy, block_size=block_size, beam_width=3).order.numpy()
    for row, mask in zip(order, batch["mask"].numpy(), strict=True):
        chosen = row[row >= 0]
        assert len(chosen) == min(6, mask.sum())
        assert (row[: len(chosen)] >= 0).all(), "empty slots come last"
        assert len(set(chosen)) == len(chosen)
        assert mask[chosen].all()


@pytest.mark.parametrize("strategy", ["greedy", "assignment", "beam"])
def test_permuting_the_candidates_permutes_the_list(model, strategy):
    batch = tiny.batch(3, 8, seed=5)
    order = np.random.default_rng(1).permutation(8)
    plain = model.generate(batch, strategy=strategy, beam_width=3)
    shuffled = model.generate(tiny.permuted(batch, order), strategy=strategy, beam_width=3)
    np.testing.assert_array_equal(order[shuffled.order.numpy()], plain.order)
    np.testing.assert_allclose(
        shuffled.probabilities, tf.gather(plain.probabilities, order, axis=2), atol=1e-5
    )


@pytest.mark.parametrize("strategy", ["greedy", "assignment", "beam"])
def test_more_padding_changes_nothing(model, strategy):
    batch = tiny.batch(3, 8, shortest=5, seed=6)
    plain = model.generate(batch, strategy=strategy, beam_width=3)
    more = model.generate(tiny.padded(batch, 5), strategy=strategy, beam_width=3)
    np.testing.assert_array_equal(plain.order, more.order)
    np.testing.assert_allclose(plain.scores, more.scores[:, :8], atol=1e-5)
    assert (more.scores.numpy()[:, 8:] < 0).all()


@pytest.mark.parametrize("strategy", ["greedy", "assignment", "beam"])
def test_padding_that_gives_a_short_list_more_slots_changes_nothing(model, strategy):
    batch = tiny.batch(4, 5, shortest=1, seed=8)  # fewer candidates than the model has slots
    assert model.config.model.teacher.slots > 5
    plain = model.generate(batch, strategy=strategy, beam_width=3)
    more = model.generate(tiny.padded(batch, 3), strategy=strategy, beam_width=3)
    np.testing.assert_array_equal(more.order[:, :5], plain.order)
    assert (more.order.numpy()[:, 5:] == -1).all()
    filled = plain.order.numpy() >= 0
    np.testing.assert_allclose(
        more.probabilities.numpy()[:, :5, :5][filled], plain.probabilities.numpy()[filled], atol=1e-5
    )


def test_padding_that_gives_a_short_list_more_slots_leaves_the_losses_as_they_are(model):
    batch = tiny.batch(4, 5, shortest=2, seed=9)
    ties = tf.random.stateless_uniform([4, 5], [1, 2])
    plain = model.compute_losses(batch, None, ties, tf.constant(1.0))
    more = model.compute_losses(tiny.padded(batch, 3), None, tf.pad(ties, [[0, 0], [0, 3]]), tf.constant(1.0))
    for name in ("teacher", "unlikelihood", "student_listwise", "student_pointwise"):
        np.testing.assert_allclose(more[name], plain[name], rtol=1e-5, err_msg=name)


def test_wider_beam_is_at_least_as_likely_as_greedy_and_width_one_is_greedy(model):
    batch = tiny.batch(16, 8, seed=8)
    greedy = model.generate(batch, strategy="greedy", block_size=1)
    one = model.generate(batch, strategy="beam", beam_width=1, block_size=1)
    wide = model.generate(batch, strategy="beam", beam_width=8, block_size=1)
    np.testing.assert_array_equal(greedy.order, one.order)
    assert float(tf.reduce_mean(wide.log_probability - greedy.log_probability)) > 0.0


def test_full_width_beam_finds_the_most_likely_list_of_two():
    model = tiny.model(tiny.config(slots=2, block_size=1))
    batch = tiny.batch(8, 5, seed=9)
    found = model.generate(batch, strategy="beam", beam_width=5).log_probability.numpy()
    memory = memory_of(model, batch)
    best = np.full(8, -np.inf)
    for first in range(5):
        for second in range(5):
            if first == second:
                continue
            order = tf.tile([[first, second]], [8, 1])
            logits = model.teacher.forced_logits(memory, order, 1)
            available = losses.slot_availability(order, batch["mask"], 1)
            p = masked_softmax(logits, available).numpy()
            best = np.maximum(best, np.log(p[:, 0, first]) + np.log(p[:, 1, second]))
    np.testing.assert_allclose(found, best, atol=1e-4)


def test_decoding_under_xla_gives_the_same_list(model):
    batch = tiny.batch(4, 8, shortest=5, seed=10)
    compiled = tf.function(lambda encoded: model.generate(encoded), jit_compile=True)(batch)
    plain = model.generate(batch)
    np.testing.assert_array_equal(compiled.order, plain.order)
    np.testing.assert_allclose(compiled.scores, plain.scores, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lists=st.integers(1, 4),
    candidates=st.integers(6, 9),
    extra=st.integers(0, 4),
    block_size=st.integers(1, 6),
    strategy=st.sampled_from(["greedy", "assignment", "beam"]),
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
    probabilities = np.pad(one.probabilities, [[0, 0], [0, 0], [0, extra]])[..., shuffle]
    np.testing.assert_allclose(two.probabilities, probabilities, atol=1e-5)
    np.testing.assert_array_equal(np.where(two.order >= 0, shuffle[two.order], -1), one.order)
    assert np.isfinite(two.scores).all() and np.isfinite(two.log_probability).all()
