"""Seq2Slate: a pointer network that writes the list one candidate after another."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf import losses
from psad_tf.baselines.base import Baseline, by_initial_rank, was_shown
from psad_tf.config import TrainConfig
from psad_tf.decoding.blocks import ranking_scores
from psad_tf.features import FeatureDeclaration
from psad_tf.layers.mlp import MLP
from psad_tf.masking import LARGE_NEGATIVE, masked_softmax


class Seq2Slate(Baseline):
    """Recurrent encoder over the initial list, recurrent decoder, pointer over what is unchosen.

    e_i = LSTM over the initial order;  d_l = LSTM(d_{l-1}, e of the candidate at slot l - 1);
    p(i | slots before l) = softmax_i(v . tanh(W_e e_i + W_d d_l)) over the unchosen candidates.

    Trained with supervision: teacher forcing on the ideal list of what was shown, with the slot-wise
    cross-entropy of PSAD's policy head (equals interchangeable), the pointer's softmax over the shown
    candidates alone. The encoder reads all candidates, shown or not. Decoding is greedy, one slot a step.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration; `model.teacher.slots` is the length of the list.

    Reference: Bello et al., "Seq2Slate: Re-ranking and Slate Optimization with RNNs", 2018.
    """

    def __init__(
        self, declaration: FeatureDeclaration, vocabulary_sizes: Mapping[str, int], config: TrainConfig
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config, "seq2slate")
        self.dim = dim = config.model.embedding_dim
        self.candidate = MLP((2 * dim, dim), config.model.dropout_rate, name="candidate")
        self.reader = tf.keras.layers.LSTM(dim, return_sequences=True, return_state=True, name="reader")
        self.writer = tf.keras.layers.LSTM(dim, return_sequences=True, name="writer")
        self.of_candidate = tf.keras.layers.Dense(dim, name="of_candidate")
        self.of_slot = tf.keras.layers.Dense(dim, use_bias=False, name="of_slot")
        self.pointer = tf.keras.layers.Dense(1, use_bias=False, name="pointer")
        self.start = self.add_weight("start", shape=(self.dim,), initializer="zeros")

    def list_loss(self, batch: Mapping[str, tf.Tensor], seed: tf.Tensor | None, ties: tf.Tensor) -> tf.Tensor:
        labels, mask, shown = batch["labels"], batch["mask"], was_shown(batch)
        items, state = self._read(batch, seed)
        order = losses.ideal_order(labels, ties, self._slots(mask), where=shown)
        before = tf.gather(items, tf.maximum(order[:, :-1], 0), batch_dims=1)
        states = self.writer(tf.concat([self._first(mask)[:, tf.newaxis], before], 1), initial_state=state)
        logits = self._point(self.of_slot(states), self.of_candidate(items))
        available = losses.slot_availability(order, 1, where=shown)
        targets, weights = losses.slot_targets(labels, order, where=available)
        return losses.slot_cross_entropy(logits, targets, where=available, weights=weights)

    def rank(self, encoded: Mapping[str, tf.Tensor]) -> tf.Tensor:
        order, last = self.generate(encoded)
        return ranking_scores(order, last, encoded["mask"])

    def generate(self, encoded: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Writes the list greedily.

        Returns:
            int32 [batch, L], the candidate at each slot, -1 past the end of a shorter list; and the last
            slot's probabilities, float32 [batch, n].
        """
        mask = encoded["mask"]
        items, state = self._read(encoded, None)
        keys = self.of_candidate(items)
        slots, n = self._slots(mask), mask.shape[1]
        length = tf.reduce_sum(tf.cast(mask, tf.int32), -1)

        def step(
            slot: tf.Tensor,
            available: tf.Tensor,
            inputs: tf.Tensor,
            hidden: list[tf.Tensor],
            order: tf.Tensor,
            _: tf.Tensor,
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor, tf.Tensor]:
            output, hidden = self.writer.cell(inputs, hidden)
            logits = self._point(self.of_slot(output)[:, tf.newaxis], keys)[:, 0]
            best = tf.argmax(tf.where(available, logits, LARGE_NEGATIVE), -1, output_type=tf.int32)
            pick = tf.where(slot < length, best, -1)
            order = tf.where(tf.range(slots) == slot, pick[:, tf.newaxis], order)
            probabilities = masked_softmax(logits, available)
            available = available & ~tf.one_hot(pick, n, on_value=True, off_value=False)
            following = tf.gather(items, tf.maximum(pick, 0), batch_dims=1)
            return slot + 1, available, following, hidden, order, probabilities

        start = (
            tf.constant(0),
            mask,
            self._first(mask),
            state,
            tf.fill([tf.shape(mask)[0], slots], -1),
            tf.zeros(tf.shape(mask)),
        )
        result = tf.while_loop(lambda slot, *_: slot < slots, step, start, maximum_iterations=slots)
        return result[4], result[5]

    def _slots(self, mask: tf.Tensor) -> int:
        return min(self.config.model.teacher.slots, mask.shape[1])

    def _first(self, mask: tf.Tensor) -> tf.Tensor:
        return tf.repeat(self.start[tf.newaxis], tf.shape(mask)[0], axis=0)

    def _read(
        self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Encoded candidates [batch, n, d] in their own order, and the state after the last."""
        order, place = by_initial_rank(encoded)
        candidates = self.candidate(self.candidate_inputs(encoded, seed=seed), seed=seed)
        read, hidden, carry = self.reader(
            tf.gather(candidates, order, batch_dims=1), mask=tf.gather(encoded["mask"], order, batch_dims=1)
        )
        return tf.gather(read, place, batch_dims=1), [hidden, carry]

    def _point(self, of_slots: tf.Tensor, of_candidates: tf.Tensor) -> tf.Tensor:
        """Logits [batch, L, n] of slots [batch, L, d] for candidates [batch, n, d]."""
        joint = tf.tanh(of_slots[:, :, tf.newaxis] + of_candidates[:, tf.newaxis])
        return self.pointer(joint)[..., 0]
