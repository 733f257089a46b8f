"""The teacher: a semi-autoregressive generator of lists. It trains the student and is not exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from psad_tf.config import ModelConfig
from psad_tf.decoding.blocks import Decoded, decode
from psad_tf.layers.attention import DecoderLayer, EncoderLayer, KeyValue, block_causal_mask
from psad_tf.layers.user_profile_network import UserProfile


class Memory(NamedTuple):
    """The encoded candidate set and what the decoder reads of it at every step.

    Attributes:
        items: [batch, n, d].
        keys: Pointer keys, [batch, n, d].
        bias: Pointer bias, what a candidate is worth whatever the slot, [batch, n].
        cross: One `KeyValue` a decoder layer.
        positions: Personalized positions of the slots, [batch, L, d].
        start: The embedding that stands before the first block, [batch, d].
        mask: bool [batch, n].
    """

    items: tf.Tensor
    keys: tf.Tensor
    bias: tf.Tensor
    cross: Sequence[KeyValue]
    positions: tf.Tensor
    start: tf.Tensor
    mask: tf.Tensor

    def filled(self, slots: int) -> tf.Tensor:
        """Which of the first `slots` slots a list is long enough to fill, bool [batch, slots]."""
        return tf.range(slots) < tf.reduce_sum(tf.cast(self.mask, tf.int32), -1, keepdims=True)


class Teacher(tf.keras.layers.Layer):
    """Encoder over the candidates, block-causal decoder over the slots, pointer over the candidates.

    Encoder: m = Transformer(c_i + pos(rank_i)), a set function.
    Decoder input at slot l: pos_l + W m[candidate at slot l - K], or the start embedding in the first
    block; so a slot knows the items of all earlier blocks and, of its own block, only the other slots'
    queries. Self-attention is block-causal, and blind to slots past the end of a shorter list.
    Pointer: logit[l, i] = q_l . k_i / sqrt(d) + b_i over the candidates unchosen when the block began;
    b_i is also trained as the logit of the candidate's relevance, which tells the encoder of irrelevant
    candidates what slots, that only ask for relevant ones, do not.

    K = 1 is the autoregressive decoder, K = L the one-shot pointer; the code is the same.

    Args:
        config: The model's configuration; `config.teacher` has L and K.

    Reference: arXiv 2603.07107; Wang et al., "Semi-Autoregressive Neural Machine Translation", EMNLP
    2018, for the shifted block input; Vinyals et al., "Pointer Networks", 2015.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(name="teacher")
        self.config = teacher = config.teacher
        self.dim = dim = config.embedding_dim
        sizes = (dim, teacher.heads, teacher.feed_forward_dim, config.dropout)
        self.candidate = tf.keras.layers.Dense(dim, name="candidate")
        self.encoder_layers = [
            EncoderLayer(*sizes, name=f"encoder_{index}") for index in range(teacher.encoder_layers)
        ]
        self.encoder_norm = tf.keras.layers.LayerNormalization(name="encoder_norm")
        self.start = tf.keras.layers.Dense(dim, name="start")
        self.placed_item = tf.keras.layers.Dense(dim, name="placed_item")
        self.decoder_layers = [
            DecoderLayer(*sizes, name=f"decoder_{index}") for index in range(teacher.decoder_layers)
        ]
        self.decoder_norm = tf.keras.layers.LayerNormalization(name="decoder_norm")
        self.pointer_query = tf.keras.layers.Dense(dim, name="pointer_query")
        self.pointer_key = tf.keras.layers.Dense(dim, name="pointer_key")
        self.pointer_bias = tf.keras.layers.Dense(1, name="pointer_bias")

    def slots(self, candidates: int | None) -> int:
        """L for lists padded to `candidates`: the configured length, or the list's if shorter."""
        return self.config.slots if candidates is None else min(self.config.slots, candidates)

    def encode(
        self,
        profile: UserProfile,
        mask: tf.Tensor,
        initial_rank: tf.Tensor,
        seed: tf.Tensor | None = None,
    ) -> Memory:
        """Encodes the candidate set.

        Args:
            profile: From the User Profile Network.
            mask: bool [batch, n], n known when the graph is built.
            initial_rank: int32 [batch, n].
            seed: int32 [2], turns dropout on.
        """
        last = profile.positions.shape[1] - 1
        ranks = tf.gather(profile.positions, tf.clip_by_value(initial_rank, 0, last), batch_dims=1)
        items = self.candidate(profile.candidates + ranks)
        for layer in self.encoder_layers:
            items = layer(items, mask, seed=seed)
        items = self.encoder_norm(items)
        return Memory(
            items=items,
            keys=self.pointer_key(items),
            bias=self.pointer_bias(items)[..., 0],
            cross=[layer.cross_attention.project(items) for layer in self.decoder_layers],
            positions=profile.positions[:, : self.slots(mask.shape[1])],
            start=self.start(profile.intent),
            mask=mask,
        )

    def forced_logits(
        self, memory: Memory, order: tf.Tensor, block_size: int, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Logits of every slot at once, given the whole list (teacher forcing).

        Args:
            memory: From `encode`.
            order: int32 [batch, L], the candidate at each slot, -1 where empty.
            block_size: K.
            seed: int32 [2], turns dropout on.

        Returns:
            float32 [batch, L, n], not yet masked by what is chosen.
        """
        slots = order.shape[1]
        inputs = self._inputs(memory, 0, slots, order[:, : slots - block_size], block_size)
        seen = block_causal_mask(slots, block_size) & memory.filled(slots)[:, tf.newaxis]
        states, _ = self._run(inputs, None, seen, memory, seed)
        return self._point(states, memory)

    def generate(
        self,
        memory: Memory,
        block_size: int | None = None,
        strategy: str | None = None,
        beam_width: int | None = None,
    ) -> Decoded:
        """Generates a list; arguments left out come from the configuration.

        Keys and values of earlier blocks are cached: each slot passes the decoder once.
        """
        config = self.config
        return decode(
            _CachedScorer(self, memory),
            memory.mask,
            memory.positions.shape[1],
            min(block_size or config.block_size, memory.positions.shape[1]),
            strategy or config.decoding,  # type: ignore[arg-type]
            beam_width or config.beam_width,
        )

    def _inputs(
        self, memory: Memory, start: int, size: int, placed: tf.Tensor | None, lead: int
    ) -> tf.Tensor:
        """Decoder inputs of `size` slots from `start`: positions plus the items K slots before.

        `placed` int32 [batch, size - lead] are the candidates of the slots K before all but the first
        `lead` ones, which get the start embedding.
        """
        parts = []
        if lead:
            parts.append(tf.repeat(memory.start[:, tf.newaxis], min(lead, size), axis=1))
        if placed is not None and placed.shape[1]:
            items = self.placed_item(tf.gather(memory.items, tf.maximum(placed, 0), batch_dims=1))
            parts.append(items * tf.cast(placed >= 0, items.dtype)[..., tf.newaxis])
        inputs = parts[0] if len(parts) == 1 else tf.concat(parts, 1)
        return inputs + memory.positions[:, start : start + size]

    def _run(
        self,
        inputs: tf.Tensor,
        past: Sequence[KeyValue] | None,
        self_mask: tf.Tensor,
        memory: Memory,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, list[KeyValue]]:
        caches = []
        for index, layer in enumerate(self.decoder_layers):
            before = None if past is None else past[index]
            inputs, cache = layer(inputs, before, self_mask, memory.cross[index], memory.mask, seed=seed)
            caches.append(cache)
        return self.decoder_norm(inputs), caches

    def _point(self, states: tf.Tensor, memory: Memory) -> tf.Tensor:
        logits = tf.matmul(self.pointer_query(states), memory.keys, transpose_b=True)
        bias = tf.cast(memory.bias, tf.float32)[:, tf.newaxis]
        return tf.cast(logits, tf.float32) * self.dim**-0.5 + bias


class _CachedScorer:
    """The teacher as the decoder sees it: its state is the decoder layers' keys and values.

    The memory travels in the state, so that beam search may reorder and repeat the batch.
    """

    def __init__(self, teacher: Teacher, memory: Memory) -> None:
        self.teacher = teacher
        self.memory = memory

    def begin(self) -> tuple[Memory, list[KeyValue]]:
        return self.memory, []

    def step(
        self,
        start: int,
        size: int,
        previous: tf.Tensor | None,
        state: tuple[Memory, list[KeyValue]],
    ) -> tuple[tf.Tensor, tuple[Memory, list[KeyValue]]]:
        memory, caches = state
        placed = None if previous is None else previous[:, :size]
        inputs = self.teacher._inputs(memory, start, size, placed, size if previous is None else 0)
        seen = tf.repeat(memory.filled(start + size)[:, tf.newaxis], size, axis=1)
        states, caches = self.teacher._run(inputs, caches or None, seen, memory)
        return self.teacher._point(states, memory), (memory, caches)
