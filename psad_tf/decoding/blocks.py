"""Generating a list block by block so that its expected value is large.

The decoder knows a model only as a `BlockScorer`: something that starts a state for a batch, reads the
blocks before to say what it knows of the next K slots, values every candidate at one of these slots, and
takes note of the candidate that was placed there.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import tensorflow as tf

from psad_tf.decoding.assignment import exact_assignment
from psad_tf.layers.slots import put

STRATEGIES = ("greedy", "assignment", "beam")
_IMPOSSIBLE = -1e30
_ASSIGNMENT_ROUNDS = 2


class BlockScorer(Protocol):
    """One model's way through a list. Every tensor of a state has the batch as its first axis."""

    def begin(self) -> Any:
        """The state before the first block: a nest of tensors, [batch, ...] each.

        Later states have the same shapes: one graph computes all blocks.
        """

    def block(
        self, start: int | tf.Tensor, size: int, previous: tf.Tensor, state: Any
    ) -> tuple[tf.Tensor, Any]:
        """What is known of the slots `start` to `start + size - 1` before any of them is filled.

        Args:
            start: The block's first slot, an int32 scalar.
            size: The block's slots.
            previous: int32 [batch, K], the candidates of the block before, -1 where empty and in the first
                block.
            state: What the step before returned.

        Returns:
            float32 [batch, size, n] logits, and the new state.
        """

    def value(self, logits: tf.Tensor, slot: int | tf.Tensor, state: Any) -> tf.Tensor:
        """The expected gain in (0, 1) of each candidate at a slot: float32 [batch, n].

        Args:
            logits: float32 [batch, n], the slot's row of what `block` gave.
            slot: The slot.
            state: Knows all that is placed before the slot.
        """

    def place(self, picks: tf.Tensor, state: Any) -> Any:
        """The state after `picks` int32 [batch] (-1 for none) were placed at the next slot."""


class Decoded(NamedTuple):
    """A generated list.

    Attributes:
        order: int32 [batch, L], the candidate at each slot, -1 past the end of a shorter list.
        values: float32 [batch, L], the expected gain of each slot, 0 where it is empty; their sum is the
            list's value.
        scores: float32 [batch, n], falling along the full ranking: the generated list first, then the
            candidates it left out by their value at the last slot; negative at padding.
    """

    order: tf.Tensor
    values: tf.Tensor
    scores: tf.Tensor


def decode(
    scorer: BlockScorer,
    mask: tf.Tensor,
    slots: int,
    block_size: int,
    strategy: Literal["greedy", "assignment", "beam"] = "greedy",
    beam_width: int = 1,
) -> Decoded:
    """Generates a list of large value in ceil(L / K) blocks.

    The graph has the blocks of K slots once, as a loop.

    Args:
        scorer: The model.
        mask: bool [batch, n], false at padding; padding is never chosen, nothing is chosen twice.
        slots: L.
        block_size: K.
        strategy: `greedy`: each slot takes the candidate of the largest value there; `beam`: the
            `beam_width` partial lists of the largest value are kept from slot to slot; `assignment`: a
            block's candidates have the largest possible sum of values given one another's influence
            (never less than the greedy block).
        beam_width: Partial lists kept, for `beam`.

    Returns:
        The list.

    Raises:
        ValueError: There is no such strategy, or `block_size` or `beam_width` is below 1.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if min(block_size, beam_width) < 1:
        raise ValueError(f"block_size and beam_width must be at least 1, got {block_size} and {beam_width}")
    if strategy == "beam":
        return _beam_search(scorer, mask, slots, block_size, beam_width)
    length = tf.reduce_sum(tf.cast(mask, tf.int32), -1, keepdims=True)

    def fill(start: tf.Tensor, size: int, written: _Written) -> _Written:
        logits, state = scorer.block(start, size, written.previous, written.state)
        open_slots = start + tf.range(size) < length  # [batch, size]
        picks, values, after = _greedy_block(scorer, logits, start, written.available, open_slots, state)
        if strategy == "assignment":
            picks, values, after = _assigned_block(
                scorer, logits, start, written.available, open_slots, state, (picks, values, after)
            )
        return _Written(
            available=written.available & ~_chosen(picks, tf.shape(mask)[1]),
            state=after,
            previous=picks,
            order=put(written.order, picks, start),
            values=put(written.values, _picked(values, picks), start),
            last=values[:, -1],
        )

    def fill_whole(start: tf.Tensor, written: _Written) -> tuple[tf.Tensor, _Written]:
        filled = fill(start, block_size, written)
        tf.nest.map_structure(lambda new, old: new.set_shape(old.shape), filled, written)
        return start + block_size, filled

    batch = tf.shape(mask)[0]
    written = _Written(
        available=mask,
        state=scorer.begin(),
        previous=tf.fill([batch, block_size], -1),
        order=tf.fill([batch, slots], -1),
        values=tf.zeros([batch, slots]),
        last=tf.zeros(tf.shape(mask)),
    )
    blocks, start = slots // block_size, tf.constant(0)
    if blocks > 1:
        start, written = tf.while_loop(
            lambda start, _: start < blocks * block_size,
            fill_whole,
            (start, written),
            maximum_iterations=blocks,
        )
    elif blocks:
        start, written = fill_whole(start, written)
    if slots % block_size:
        written = fill(start, slots % block_size, written)
    return Decoded(written.order, written.values, ranking_scores(written.order, written.last, mask))


class _Written(NamedTuple):
    """A list up to some block.

    Attributes:
        available: bool [batch, n], what may still be placed.
        state: The scorer's.
        previous: int32 [batch, K], the last block's candidates.
        order: int32 [batch, L], -1 where nothing is placed yet.
        values: float32 [batch, L].
        last: float32 [batch, n], every candidate's value at the last slot.
    """

    available: tf.Tensor
    state: Any
    previous: tf.Tensor
    order: tf.Tensor
    values: tf.Tensor
    last: tf.Tensor


def ranking_scores(order: tf.Tensor, left_out: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """One score per candidate that falls along the full ranking.

    L - l for the candidate at slot l, half of `left_out` (below 1) for one left out, -1 at padding.

    Args:
        order: int32 [batch, L], -1 where empty.
        left_out: float32 [batch, n] in [0, 1], what orders the candidates that no slot holds.
        mask: bool [batch, n].

    Returns:
        float32 [batch, n].
    """
    slots = order.shape[1]
    at_slot = tf.one_hot(order, tf.shape(mask)[1])  # [batch, L, n]
    placed = tf.einsum("bln,l->bn", at_slot, tf.cast(slots - tf.range(slots), tf.float32))
    return tf.where(mask, tf.where(placed > 0.0, placed, 0.5 * left_out), -1.0)


def _greedy_block(
    scorer: BlockScorer,
    logits: tf.Tensor,
    start: tf.Tensor,
    available: tf.Tensor,
    open_slots: tf.Tensor,
    state: Any,
) -> tuple[tf.Tensor, tf.Tensor, Any]:
    """Picks [batch, size], the values of all candidates at each slot [batch, size, n], and the state."""
    picks, values, n = [], [], tf.shape(available)[1]
    by_slot = zip(tf.unstack(logits, axis=1), tf.unstack(open_slots, axis=1), strict=True)
    for index, (logits_there, is_open) in enumerate(by_slot):
        values.append(scorer.value(logits_there, start + index, state))
        best = tf.argmax(tf.where(available, values[-1], _IMPOSSIBLE), -1, output_type=tf.int32)
        picks.append(tf.where(is_open, best, -1))
        available = available & ~tf.one_hot(picks[-1], n, on_value=True, off_value=False)
        state = scorer.place(picks[-1], state)
    return tf.stack(picks, 1), tf.stack(values, 1), state


def _assigned_block(
    scorer: BlockScorer,
    logits: tf.Tensor,
    start: tf.Tensor,
    available: tf.Tensor,
    open_slots: tf.Tensor,
    state: Any,
    best: tuple[tf.Tensor, tf.Tensor, Any],
) -> tuple[tf.Tensor, tf.Tensor, Any]:
    """Improves a block: the best assignment given the influence of the picks so far, again and again.

    Without influence inside a block the first round is the optimum.
    """
    picks, values, _ = best
    for _ in range(_ASSIGNMENT_ROUNDS):
        picks = exact_assignment(values, available, open_slots)
        after, rows = state, []
        by_slot = zip(tf.unstack(logits, axis=1), tf.unstack(picks, axis=1), strict=True)
        for index, (logits_there, pick) in enumerate(by_slot):
            rows.append(scorer.value(logits_there, start + index, after))
            after = scorer.place(pick, after)
        values = tf.stack(rows, 1)
        total = tf.reduce_sum(_picked(values, picks), -1)
        better = total > tf.reduce_sum(_picked(best[1], best[0]), -1)
        best = tf.nest.map_structure(
            lambda new, old, better=better: tf.where(
                tf.reshape(better, [-1] + [1] * (new.shape.rank - 1)), new, old
            ),
            (picks, values, after),
            best,
        )
    return best


def _chosen(picks: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """bool [batch, n]: which candidates `picks` [batch, k] holds."""
    return tf.reduce_any(tf.one_hot(picks, n, on_value=True, off_value=False), 1)


def _picked(values: tf.Tensor, picks: tf.Tensor) -> tf.Tensor:
    """`values` [batch, k, n] at `picks` [batch, k], 0 at empty slots; [batch, k]."""
    found = tf.gather(values, tf.maximum(picks, 0), batch_dims=2)
    return tf.where(picks >= 0, found, 0.0)


def _beam_search(scorer: BlockScorer, mask: tf.Tensor, slots: int, block_size: int, width: int) -> Decoded:
    batch, n = tf.shape(mask)[0], tf.shape(mask)[1]
    # Beams share the scorer's batch axis as [batch * width]; list b's beams are rows b*width onwards.
    length = tf.repeat(tf.reduce_sum(tf.cast(mask, tf.int32), -1), width, axis=0)
    available = tf.repeat(mask, width, axis=0)
    state = tf.nest.map_structure(lambda part: tf.repeat(part, width, axis=0), scorer.begin())
    total = tf.tile(tf.expand_dims(tf.where(tf.range(width) == 0, 0.0, _IMPOSSIBLE), 0), [batch, 1])
    order = tf.zeros([batch * width, 0], tf.int32)
    gains = tf.zeros([batch * width, 0])
    previous = tf.fill([batch * width, block_size], -1)
    for start in range(0, slots, block_size):
        size = min(block_size, slots - start)
        logits, state = scorer.block(start, size, previous, state)
        for index in range(size):
            values = scorer.value(logits[:, index], start + index, state)
            open_slot = start + index < tf.expand_dims(length, 1)  # [batch * width, 1]
            # A list that is full continues in one way: nothing more is placed.
            ways = tf.where(available & open_slot, values, _IMPOSSIBLE)
            ways = tf.where(open_slot | (tf.range(n) > 0), ways, 0.0)
            ways = tf.reshape(total, [-1, 1]) + ways
            total, best = tf.math.top_k(tf.reshape(ways, [batch, -1]), width)
            rows = tf.reshape(best // n + tf.expand_dims(tf.range(batch), 1) * width, [-1])
            picks = tf.reshape(best % n, [-1])
            state, available, logits, order, gains, values, length = tf.nest.map_structure(
                lambda part, rows=rows: tf.gather(part, rows),
                (state, available, logits, order, gains, values, length),
            )
            picks = tf.where(start + index < length, picks, -1)
            gain = _picked(tf.expand_dims(values, 1), tf.expand_dims(picks, 1))
            order = tf.concat([order, tf.expand_dims(picks, 1)], 1)
            gains = tf.concat([gains, gain], 1)
            available = available & ~_chosen(tf.expand_dims(picks, 1), n)
            state = scorer.place(picks, state)
        previous = order[:, start : start + size]
    first = tf.range(batch) * width
    order, gains, last = tf.gather(order, first), tf.gather(gains, first), tf.gather(values, first)
    return Decoded(order, gains, ranking_scores(order, last, mask))
