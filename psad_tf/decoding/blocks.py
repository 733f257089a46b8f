"""Generating a list block by block: greedy, exact assignment inside a block, beam search over blocks.

Inside a block, candidate i at slot l is worth v[l, i] = p[l, i] / log2(2 + l), its expected discounted gain:
where the slots of a block agree on what is best, the best candidate goes to the first of them.

The decoder knows a model only as a `BlockScorer`: something that starts a state for a batch and, block
after block, turns the candidates chosen last into logits for the next K slots.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import tensorflow as tf

from psad_tf.decoding.assignment import exact_assignment, greedy_assignment, largest_pair
from psad_tf.layers.attention import LARGE_NEGATIVE, masked_softmax
from psad_tf.losses import discount

_IMPOSSIBLE = -1e30


class BlockScorer(Protocol):
    """One step of a semi-autoregressive model."""

    def begin(self) -> Any:
        """The state before the first block: a nest of tensors, [batch, ...] each."""

    def step(self, start: int, size: int, previous: tf.Tensor | None, state: Any) -> tuple[tf.Tensor, Any]:
        """Logits of the slots `start` to `start + size - 1`.

        Args:
            start: The block's first slot.
            size: The block's slots.
            previous: int32 [batch, K], the candidates of the block before, -1 where empty; None for the
                first block.
            state: What the step before returned.

        Returns:
            float32 [batch, size, n] logits over all candidates, and the new state.
        """


class Decoded(NamedTuple):
    """A generated list.

    Attributes:
        order: int32 [batch, L], the candidate at each slot, -1 past the end of a shorter list.
        probabilities: float32 [batch, L, n], each slot's distribution over the candidates that were
            unchosen when its block began.
        scores: float32 [batch, n], falling along the full ranking: the generated list first, then the
            candidates it left out by the last slot's probability; negative at padding.
        log_probability: float32 [batch], sum over the slots of the log-probability of their candidates.
    """

    order: tf.Tensor
    probabilities: tf.Tensor
    scores: tf.Tensor
    log_probability: tf.Tensor


def decode(
    scorer: BlockScorer,
    mask: tf.Tensor,
    slots: int,
    block_size: int,
    strategy: Literal["greedy", "assignment", "beam"] = "greedy",
    beam_width: int = 1,
) -> Decoded:
    """Generates a list in ceil(L / K) steps.

    Args:
        scorer: The model.
        mask: bool [batch, n], false at padding; padding is never chosen, nothing is chosen twice.
        slots: L.
        block_size: K.
        strategy: `greedy`: inside a block the largest v is taken first; `assignment`: a block's
            candidates have the largest possible sum of v; `beam`: the `beam_width` partial lists of the
            largest log-probability are kept from block to block, each continued in `beam_width` ways that
            differ in the pair taken first.
        beam_width: Beams, for `beam`.

    Returns:
        The list.
    """
    if strategy == "beam":
        return _beam_search(scorer, mask, slots, block_size, beam_width)
    length = tf.reduce_sum(tf.cast(mask, tf.int32), -1)
    available, state, previous = mask, scorer.begin(), None
    orders, distributions = [], []
    log_probability = tf.zeros([tf.shape(mask)[0]])
    for start in range(0, slots, block_size):
        size = min(block_size, slots - start)
        logits, state = scorer.step(start, size, previous, state)
        log_p = _log_probabilities(logits, available)
        open_slots = tf.range(start, start + size) < length[:, tf.newaxis]
        log_worth = _log_worth(log_p, start)
        if strategy == "assignment":
            picks = exact_assignment(tf.exp(log_worth), available, open_slots)
        else:
            picks = greedy_assignment(log_worth, available, open_slots)
        orders.append(picks)
        distributions.append(masked_softmax(logits, available[:, tf.newaxis]))
        log_probability += _picked(log_p, picks)
        available = available & ~_chosen(picks, tf.shape(mask)[1])
        previous = picks
    order, probabilities = tf.concat(orders, 1), tf.concat(distributions, 1)
    return Decoded(order, probabilities, ranking_scores(order, probabilities, mask), log_probability)


def ranking_scores(order: tf.Tensor, probabilities: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """One score a candidate that falls along the full ranking.

    L - l for the candidate at slot l, its probability at the last slot (below 1) for one left out, -1
    at padding.

    Args:
        order: int32 [batch, L], -1 where empty.
        probabilities: float32 [batch, L, n].
        mask: bool [batch, n].

    Returns:
        float32 [batch, n].
    """
    slots = order.shape[1]
    at_slot = tf.one_hot(order, tf.shape(mask)[1])  # [batch, L, n]
    placed = tf.einsum("bln,l->bn", at_slot, tf.cast(slots - tf.range(slots), tf.float32))
    left_out = probabilities[:, -1] * 0.5
    return tf.where(mask, tf.where(placed > 0.0, placed, left_out), -1.0)


def _log_probabilities(logits: tf.Tensor, available: tf.Tensor) -> tf.Tensor:
    masked = tf.where(available[:, tf.newaxis], tf.cast(logits, tf.float32), LARGE_NEGATIVE)
    return tf.nn.log_softmax(masked)


def _log_worth(log_p: tf.Tensor, start: int) -> tf.Tensor:
    """log v of the slots from `start`, [batch, k, n]."""
    end = start + log_p.shape[1]
    return log_p + tf.math.log(discount(end)[start:])[:, tf.newaxis]


def _chosen(picks: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """bool [batch, n]: which candidates `picks` [batch, k] holds."""
    return tf.reduce_any(tf.one_hot(picks, n, on_value=True, off_value=False), 1)


def _picked(log_p: tf.Tensor, picks: tf.Tensor) -> tf.Tensor:
    """Sum of `log_p` [batch, k, n] at `picks` [batch, k], empty slots left out; [batch]."""
    values = tf.gather(log_p, tf.maximum(picks, 0), batch_dims=2)
    return tf.reduce_sum(tf.where(picks >= 0, values, 0.0), -1)


def _first_pairs(
    scores: tf.Tensor, available: tf.Tensor, open_slots: tf.Tensor, width: int
) -> list[tf.Tensor]:
    """The block fillings that take the 1st, 2nd, ... largest pair first and go on greedily."""
    k = scores.shape[1]
    n = tf.shape(scores)[2]
    joint = tf.where(open_slots[:, :, tf.newaxis] & available[:, tf.newaxis, :], scores, _IMPOSSIBLE)
    fillings = []
    for _ in range(width):
        slot, candidate, possible = largest_pair(joint)
        here = tf.one_hot(slot, k, on_value=True, off_value=False) & possible[:, tf.newaxis]
        chosen = tf.one_hot(candidate, n, on_value=True, off_value=False) & possible[:, tf.newaxis]
        rest = greedy_assignment(scores, available & ~chosen, open_slots & ~here)
        fillings.append(tf.where(here, candidate[:, tf.newaxis], rest))
        joint = tf.where(here[:, :, tf.newaxis] & chosen[:, tf.newaxis, :], _IMPOSSIBLE, joint)
    return fillings


def _beam_search(scorer: BlockScorer, mask: tf.Tensor, slots: int, block_size: int, width: int) -> Decoded:
    batch, n = tf.shape(mask)[0], tf.shape(mask)[1]
    length = tf.reduce_sum(tf.cast(mask, tf.int32), -1)
    # Beams share the scorer's batch axis as [batch * width]; list b's beams are rows b*width onwards.
    tiled_mask = tf.repeat(mask, width, axis=0)
    tiled_length = tf.repeat(length, width, axis=0)
    available, previous = tiled_mask, None
    state = tf.nest.map_structure(lambda part: tf.repeat(part, width, axis=0), scorer.begin())
    total = tf.where(tf.range(width) == 0, 0.0, _IMPOSSIBLE)
    total = tf.tile(total[tf.newaxis], [batch, 1])  # [batch, width]
    order = tf.zeros([batch * width, 0], tf.int32)
    probabilities = tf.zeros([batch * width, 0, n])
    for start in range(0, slots, block_size):
        size = min(block_size, slots - start)
        logits, state = scorer.step(start, size, previous, state)
        log_p = _log_probabilities(logits, available)
        open_slots = tf.range(start, start + size) < tiled_length[:, tf.newaxis]
        fillings = _first_pairs(_log_worth(log_p, start), available, open_slots, width)
        gains = tf.stack([_picked(log_p, picks) for picks in fillings], -1)  # [batch * width, width]
        # Fillings after the first are distinct only while a pair is left to start them with.
        pairs = tf.reduce_sum(tf.cast(open_slots, tf.int32), -1) * tf.reduce_sum(
            tf.cast(available, tf.int32), -1
        )
        distinct = tf.range(width) < tf.maximum(pairs, 1)[:, tf.newaxis]
        gains = tf.where(distinct, gains, _IMPOSSIBLE)
        candidates = tf.reshape(
            total[..., tf.newaxis] + tf.reshape(gains, [batch, width, width]), [batch, -1]
        )
        total, best = tf.math.top_k(candidates, width)  # [batch, width]
        rows = tf.reshape(best // width + tf.range(batch)[:, tf.newaxis] * width, [-1])
        ways = tf.reshape(best % width, [-1])
        picks = tf.gather(tf.gather(tf.stack(fillings, 1), rows), ways, batch_dims=1)
        block = tf.gather(masked_softmax(logits, available[:, tf.newaxis]), rows)
        order = tf.concat([tf.gather(order, rows), picks], 1)
        probabilities = tf.concat([tf.gather(probabilities, rows), block], 1)
        state = tf.nest.map_structure(lambda part, rows=rows: tf.gather(part, rows), state)
        available = tf.gather(available, rows) & ~_chosen(picks, n)
        previous = picks
    order = tf.reshape(order, [batch, width, slots])[:, 0]
    probabilities = tf.reshape(probabilities, [batch, width, slots, n])[:, 0]
    return Decoded(order, probabilities, ranking_scores(order, probabilities, mask), total[:, 0])
