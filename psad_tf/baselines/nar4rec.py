"""NAR4Rec: candidates are matched to positions in one shot, then decoded with contrast."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from psad_tf import losses
from psad_tf.baselines.base import Baseline, was_shown
from psad_tf.config import TrainConfig
from psad_tf.decoding.blocks import ranking_scores
from psad_tf.features import FeatureDeclaration
from psad_tf.layers.attention import DecoderLayer, EncoderLayer
from psad_tf.masking import masked_softmax

_IMPOSSIBLE = -1e30


class NAR4Rec(Baseline):
    """Non-autoregressive generation with unlikelihood training and contrastive decoding.

    x = candidate encoder(W features), self-attention without positions; t = position encoder over
    learned slot embeddings, self-attention among slots and cross-attention to x;
    p[l, i] = softmax_i(t_l . x_i / sqrt(d)), all slots at once.

    Loss: cross-entropy of the ideal list (the sequence of high utility), plus unlikelihood
    -log(1 - p) of the worst list (of low utility) at the slots where it is worse than the ideal one.

    Contrastive decoding fills the slots in order, adding the dependence among items that one shot lacks:
    y_l = argmax over unchosen v of (1 - a) p[l, v] - a max_{j < l} cos(x_v, x_{y_j}).

    The paper's evaluator, which picks among several generated lists, is not a part of this.

    Args:
        declaration: The features.
        vocabulary_sizes: Number of ids of each vocabulary.
        config: The run's configuration; `model.teacher` has slots, layers, heads and feed-forward width,
            `loss.unlikelihood_weight` the weight of the unlikelihood.
        contrast: a, in [0, 1).

    Reference: Ren et al., "Non-autoregressive Generative Models for Reranking Recommendation", KDD 2024.
    """

    def __init__(
        self,
        declaration: FeatureDeclaration,
        vocabulary_sizes: Mapping[str, int],
        config: TrainConfig,
        contrast: float = 0.01,
    ) -> None:
        super().__init__(declaration, vocabulary_sizes, config, "nar4rec")
        self.contrast = contrast
        self.dim = dim = config.model.embedding_dim
        teacher = config.model.teacher
        sizes = (dim, teacher.num_heads, teacher.feed_forward_dim, config.model.dropout_rate)
        self.candidate = tf.keras.layers.Dense(dim, name="candidate")
        self.candidate_layers = [
            EncoderLayer(*sizes, name=f"candidate_{index}") for index in range(max(1, teacher.encoder_layers))
        ]
        self.candidate_norm = tf.keras.layers.LayerNormalization(name="candidate_norm")
        self.slot_layers = [
            DecoderLayer(*sizes, name=f"slot_{index}") for index in range(teacher.decoder_layers)
        ]
        self.slot_norm = tf.keras.layers.LayerNormalization(name="slot_norm")
        self.slot_embeddings = self.add_weight(
            "position_bases",
            shape=(config.model.teacher.slots, self.dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.05),
        )

    def list_loss(self, batch: Mapping[str, tf.Tensor], seed: tf.Tensor | None, ties: tf.Tensor) -> tf.Tensor:
        labels, shown = batch["labels"], was_shown(batch)
        _, logits = self.match(batch, seed)
        slots = logits.shape[1]
        best = losses.ideal_order(labels, ties, slots, where=shown)
        available = losses.slot_availability(best, slots, where=shown)
        targets, weights = losses.slot_targets(labels, best, where=available)
        likelihood = losses.slot_cross_entropy(logits, targets, where=available, weights=weights)
        badness = tf.reduce_max(labels, -1, keepdims=True) - labels
        worst = losses.ideal_order(badness, ties, slots, where=shown)
        avoided, _ = losses.slot_targets(labels, worst, where=available)
        grades = [tf.gather(labels, tf.maximum(order, 0), batch_dims=1) for order in (best, worst)]
        worse = tf.where(grades[1] < grades[0], weights, 0.0)  # [batch, slots]
        share = -tf.math.log(tf.maximum(1.0 - masked_softmax(logits, available), 1e-6)) * avoided
        unlikelihood = tf.math.divide_no_nan(
            tf.reduce_sum(tf.reduce_sum(share, -1) * worse), tf.reduce_sum(worse)
        )
        return likelihood + self.config.loss.unlikelihood_weight * unlikelihood

    def rank(self, encoded: Mapping[str, tf.Tensor]) -> tf.Tensor:
        order, last = self.generate(encoded)
        return ranking_scores(order, last, encoded["mask"])

    def match(self, encoded: Mapping[str, tf.Tensor], seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Encoded candidates [batch, n, d] and logits of all slots, float32 [batch, L, n]."""
        mask = encoded["mask"]
        slots = min(self.config.model.teacher.slots, mask.shape[1])
        items = self.candidate(self.candidate_inputs(encoded, seed=seed))
        for layer in self.candidate_layers:
            items = layer(items, mask, seed=seed)
        items = self.candidate_norm(items)
        states = tf.repeat(self.slot_embeddings[tf.newaxis, :slots], tf.shape(mask)[0], axis=0)
        everything = tf.ones([1, slots, slots], tf.bool)
        for slot_layer in self.slot_layers:
            memory = slot_layer.cross_attention.project(items)
            states, _ = slot_layer(states, None, everything, memory, mask, seed=seed)
        return items, tf.matmul(self.slot_norm(states), items, transpose_b=True) * self.dim**-0.5

    def generate(self, encoded: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Matches once, then decodes with contrast.

        Returns:
            int32 [batch, L], the candidate at each slot, -1 past the end of a shorter list; and the last
            slot's probabilities, float32 [batch, n].
        """
        mask = encoded["mask"]
        items, logits = self.match(encoded, None)
        slots, n = logits.shape[1], mask.shape[1]
        probabilities = masked_softmax(logits, mask[:, tf.newaxis])
        directions = tf.math.l2_normalize(items, -1)
        alike = tf.matmul(directions, directions, transpose_b=True)  # [batch, n, n]
        length = tf.reduce_sum(tf.cast(mask, tf.int32), -1)

        def step(
            slot: tf.Tensor, available: tf.Tensor, likeness: tf.Tensor, order: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
            value = (1.0 - self.contrast) * tf.gather(probabilities, slot, axis=1) - self.contrast * likeness
            best = tf.argmax(tf.where(available, value, _IMPOSSIBLE), -1, output_type=tf.int32)
            pick = tf.where(slot < length, best, -1)
            order = tf.where(tf.range(slots) == slot, pick[:, tf.newaxis], order)
            chosen = tf.gather(alike, tf.maximum(pick, 0), batch_dims=1)
            likeness = tf.where(slot == 0, chosen, tf.maximum(likeness, chosen))
            available = available & ~tf.one_hot(pick, n, on_value=True, off_value=False)
            return slot + 1, available, likeness, order

        start = (tf.constant(0), mask, tf.zeros(tf.shape(mask)), tf.fill([tf.shape(mask)[0], slots], -1))
        result = tf.while_loop(lambda slot, *_: slot < slots, step, start, maximum_iterations=slots)
        return result[3], probabilities[:, -1]
