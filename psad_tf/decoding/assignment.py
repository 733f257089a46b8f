"""Choosing distinct candidates for the slots of one block, from a slot-by-candidate score."""

from __future__ import annotations

import tensorflow as tf

_IMPOSSIBLE = -1e30


def greedy_assignment(scores: tf.Tensor, available: tf.Tensor, open_slots: tf.Tensor) -> tf.Tensor:
    """Fills the slots by taking the largest slot-by-candidate score again and again.

    Each time the largest score of an open slot and an unchosen candidate is taken, and its row and its
    column are closed: collisions go to the slot that wants the candidate most. O(k^2 n).

    Args:
        scores: float32 [batch, k, n].
        available: bool [batch, n], candidates that may be chosen.
        open_slots: bool [batch, k], slots to fill.

    Returns:
        int32 [batch, k], the candidate of each slot; -1 where the slot is closed or nothing is left.

    >>> scores = tf.constant([[[5.0, 4.0, 0.0], [6.0, 1.0, 2.0]]])
    >>> greedy_assignment(scores, tf.constant([[True] * 3]), tf.constant([[True] * 2])).numpy().tolist()
    [[1, 0]]
    """
    k = scores.shape[1]
    picks = tf.fill(tf.shape(open_slots), -1)
    for _ in range(k):
        joint = tf.where(open_slots[:, :, tf.newaxis] & available[:, tf.newaxis, :], scores, _IMPOSSIBLE)
        slot, candidate, possible = largest_pair(joint)
        here = tf.one_hot(slot, k, on_value=True, off_value=False) & tf.expand_dims(possible, 1)
        picks = tf.where(here, tf.expand_dims(candidate, 1), picks)
        open_slots = open_slots & ~here
        chosen = tf.one_hot(candidate, tf.shape(scores)[2], on_value=True, off_value=False)
        available = available & ~(chosen & tf.expand_dims(possible, 1))
    return picks


def largest_pair(joint: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Slot and candidate of the largest score of [batch, k, n], and whether any was possible."""
    best = tf.reduce_max(joint, -1)  # [batch, k]
    slot = tf.argmax(best, -1, output_type=tf.int32)
    rows = tf.gather(joint, slot, batch_dims=1)
    candidate = tf.argmax(rows, -1, output_type=tf.int32)
    return slot, candidate, tf.reduce_max(best, -1) > _IMPOSSIBLE / 2


def exact_assignment(scores: tf.Tensor, available: tf.Tensor, open_slots: tf.Tensor) -> tf.Tensor:
    """Fills the slots so that the sum of their scores is the largest possible.

    The Hungarian method by shortest augmenting paths, one row (slot) after the other, for a whole batch
    at once; O(k^2 n). Slots whose candidates run out stay empty.

    Args:
        scores: float32 [batch, k, n].
        available: bool [batch, n], candidates that may be chosen.
        open_slots: bool [batch, k], slots to fill.

    Returns:
        int32 [batch, k], the candidate of each slot; -1 where the slot is closed or nothing is left.

    Reference: Kuhn, "The Hungarian Method for the Assignment Problem", 1955; Jonker and Volgenant, 1987.

    >>> scores = tf.constant([[[5.0, 4.0, 0.0], [6.0, 1.0, 2.0]]])
    >>> exact_assignment(scores, tf.constant([[True] * 3]), tf.constant([[True] * 2])).numpy().tolist()
    [[1, 0]]
    """
    batch, k, n = tf.shape(scores)[0], scores.shape[1], tf.shape(scores)[2]
    # k dummy columns of a cost above any real one stand for "left empty".
    allowed = open_slots[:, :, tf.newaxis] & available[:, tf.newaxis, :]
    lowest = tf.reduce_min(tf.where(allowed, scores, 0.0), [1, 2], keepdims=True)
    highest = tf.reduce_max(tf.where(allowed, scores, 0.0), [1, 2], keepdims=True)
    span = highest - lowest + 1.0
    cost = tf.where(allowed, highest - scores, 4.0 * (k + 1.0) * span)
    dummy = tf.broadcast_to(2.0 * (k + 1.0) * span, [batch, k, k])
    cost = tf.concat([cost, dummy], 2)
    columns = n + k

    row_price = tf.zeros([batch, k])
    column_price = tf.zeros([batch, columns])
    row_of = tf.fill([batch, columns], -1)  # the row that each column is matched to
    for row in range(k):
        row_price, column_price, row_of = _augment(cost, row, row_price, column_price, row_of)
    matched = tf.one_hot(row_of[:, :n], k, axis=1, dtype=tf.int32)  # [batch, k, n]
    any_match = tf.reduce_max(matched, -1) > 0
    return tf.where(any_match & open_slots, tf.argmax(matched, -1, output_type=tf.int32), -1)


def _augment(
    cost: tf.Tensor, row: int, row_price: tf.Tensor, column_price: tf.Tensor, row_of: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Matches one more row along the cheapest path of alternately free and matched edges."""
    batch, k, columns = tf.shape(cost)[0], cost.shape[1], tf.shape(cost)[2]
    infinity = tf.constant(3e38)
    distance = tf.fill([batch, columns], infinity)
    previous = tf.fill([batch, columns], -1)  # the column before this one on the path
    visited = tf.zeros([batch, columns], tf.bool)
    current_row = tf.fill([batch], row)
    current_column = tf.fill([batch], -1)
    reached = tf.zeros([batch])  # length of the path to the current row
    done = tf.zeros([batch], tf.bool)
    for _ in range(row + 1):
        reduced = (
            tf.expand_dims(reached, 1)
            + tf.gather(cost, current_row, batch_dims=1)
            - tf.expand_dims(tf.gather(row_price, current_row, batch_dims=1), 1)
            - column_price
        )
        better = ~visited & (reduced < distance) & tf.expand_dims(~done, 1)
        distance = tf.where(better, reduced, distance)
        previous = tf.where(better, tf.expand_dims(current_column, 1), previous)
        nearest = tf.argmin(tf.where(visited, infinity, distance), -1, output_type=tf.int32)
        nearest = tf.where(done, current_column, nearest)
        reached = tf.where(done, reached, tf.gather(distance, nearest, batch_dims=1))
        next_row = tf.gather(row_of, nearest, batch_dims=1)
        here = tf.one_hot(nearest, columns, on_value=True, off_value=False)
        free = next_row < 0
        # The free column that ends the path is not a visited one: its price stays.
        visited = visited | (here & (~done & ~free)[:, tf.newaxis])
        current_column = nearest
        current_row = tf.where(done | free, current_row, next_row)
        done = done | free
    change = tf.where(visited, tf.expand_dims(reached, 1) - distance, 0.0)
    column_price = column_price - change
    visited_rows = tf.reduce_max(tf.one_hot(tf.where(visited, row_of, -1), k) * tf.expand_dims(change, -1), 1)
    row_price = row_price + visited_rows + tf.one_hot(row, k) * tf.expand_dims(reached, 1)
    # Walk back: each column on the path takes the row of the column before it.
    column = current_column
    for _ in range(row + 1):
        before = tf.gather(previous, tf.maximum(column, 0), batch_dims=1)
        source = tf.where(before >= 0, tf.gather(row_of, tf.maximum(before, 0), batch_dims=1), row)
        active = (column >= 0)[:, tf.newaxis] & tf.one_hot(column, columns, on_value=True, off_value=False)
        row_of = tf.where(active, tf.expand_dims(source, 1), row_of)
        column = tf.where(column >= 0, before, column)
    return row_price, column_price, row_of
