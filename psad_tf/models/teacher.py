"""The teacher: a semi-autoregressive generator of lists. It trains the student and is not exported."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from psad_tf.config import ModelConfig
from psad_tf.decoding.blocks import Decoded, decode
from psad_tf.layers.attention import DecoderLayer, EncoderLayer, KeyValue, block_causal_mask
from psad_tf.layers.pair_influence import PairFactors, PairInfluence
from psad_tf.layers.position_bias import PositionBias
from psad_tf.layers.user_profile_network import UserProfile


class Memory(NamedTuple):
    """The encoded candidate set and what the decoder reads of it at every step.

    Attributes:
        items: [batch, n, d].
        keys: Pointer keys, [batch, n, d].
        bias: What a candidate is worth whatever the slot, a logit, [batch, n].
        pairs: Both sides of the pair term; of no heads where it is off.
        cross: One `KeyValue` a decoder layer.
        positions: Personalized positions of the slots, [batch, slots, d].
        start: The embedding that stands before the first block, [batch, d].
        mask: bool [batch, n].
    """

    items: tf.Tensor
    keys: tf.Tensor
    bias: tf.Tensor
    pairs: PairFactors
    cross: Sequence[KeyValue]
    positions: tf.Tensor
    start: tf.Tensor
    mask: tf.Tensor

    def filled(self, slots: int) -> tf.Tensor:
        """Which of the first `slots` slots a list is long enough to fill, bool [batch, slots]."""
        return tf.range(slots) < tf.reduce_sum(tf.cast(self.mask, tf.int32), -1, keepdims=True)


@tf.keras.utils.register_keras_serializable("psad_tf")
class Teacher(tf.keras.layers.Layer):
    """Encoder over the candidates, block-causal decoder over the slots, value and policy heads.

    Encoder: m = Transformer(W c_i), a set function (W c_i alone without encoder layers).
    Decoder input at slot l: pos_l + W m[candidate at slot l - K], or the start embedding in the first
    block; so a slot knows the items of all earlier blocks and, of its own block, only the other slots'
    queries. Self-attention is block-causal, and blind to empty slots. Its state at slot l is h_l.

    Value head: the expected gain of showing candidate i at slot l after the items J placed before,

        logit[l, i] = q(h_l) . k(m_i) / sqrt(d) + b(m_i) + pair_i(J)        v[l, i] = slot(logit[l, i])

    with `PairInfluence` for the pair term, the only way in which the items of a slot's own block reach it,
    and `PositionBias` for the slot's part. The sum of v along a list is its value.

    Policy head: p[l, .] = softmax of q'(h_l) . k(m_i) / sqrt(d) + b'(m_i) over the candidates unplaced when
    the block began.

    K = 1 is the autoregressive decoder, K = L the one-shot one; the code is the same.

    Args:
        config: The model's configuration, of which `config.teacher` has L and K; a mapping names what
            differs from the defaults.
        positions: Slots that have a parameter of their own.

    Raises:
        InputError: A value is impossible.

    Reference: arXiv 2603.07107; Wang et al., "Semi-Autoregressive Neural Machine Translation", EMNLP
    2018, for the shifted block input; Vinyals et al., "Pointer Networks", 2015.
    """

    def __init__(
        self,
        config: ModelConfig | Mapping[str, Any] | None = None,
        positions: int = 20,
        name: str = "teacher",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        config = ModelConfig.of(config)
        self.settings = types.MappingProxyType({"config": dataclasses.asdict(config), "positions": positions})
        self.config = teacher = config.teacher
        self.dim = dim = config.embedding_dim
        sizes = (dim, teacher.num_heads, teacher.feed_forward_dim, config.dropout_rate)
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
        self.pointer_key = tf.keras.layers.Dense(dim, name="pointer_key")
        self.value_query = tf.keras.layers.Dense(dim, name="value_query")
        self.value_bias = tf.keras.layers.Dense(1, name="value_bias")
        self.policy_query = tf.keras.layers.Dense(dim, name="policy_query")
        self.policy_bias = tf.keras.layers.Dense(1, name="policy_bias")
        # Not every way through the decoder uses these; the variables are the same for all.
        for layer in (self.placed_item, self.policy_query, self.policy_bias):
            with tf.name_scope(f"teacher/{layer.name}"):
                layer.build([None, dim])
        self.position_bias = PositionBias(positions, teacher.position_bias, name="position_bias")
        self.pair_influence = None
        if teacher.pair_term:
            self.pair_influence = PairInfluence(
                teacher.pair_heads, teacher.pair_dim, teacher.pair_hidden_dim, name="pair_influence"
            )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}

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
        candidates = profile.candidates
        if self.config.initial_rank:
            last = profile.positions.shape[1] - 1
            ranks = tf.clip_by_value(initial_rank, 0, last)
            candidates += tf.gather(profile.positions, ranks, batch_dims=1)
        items = self.candidate(candidates)
        for layer in self.encoder_layers:
            items = layer(items, mask, seed=seed)
        items = self.encoder_norm(items)
        return Memory(
            items=items,
            keys=self.pointer_key(items),
            bias=self.value_bias(items)[..., 0],
            pairs=self._pairs(items),
            cross=[layer.cross_attention.project(items) for layer in self.decoder_layers],
            positions=profile.positions,
            start=self.start(profile.intent),
            mask=mask,
        )

    def _pairs(self, items: tf.Tensor) -> PairFactors:
        if self.pair_influence is not None:
            return self.pair_influence.factors(items)
        nothing = items[:, :, tf.newaxis, :0]
        return PairFactors(nothing, nothing)

    def shown_values(
        self, memory: Memory, order: tf.Tensor, block_size: int | None = None, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The value of what stands at each slot of given lists (teacher forcing).

        Args:
            memory: From `encode`.
            order: int32 [batch, S], the candidate at each slot, -1 where empty; S as long as wanted.
            block_size: K; None for the configured one.
            seed: int32 [2], turns dropout on.

        Returns:
            v[l, order_l], float32 [batch, S], 0 at empty slots; its sum is the list's value.
        """
        states = self._forced_states(memory, order, block_size or self.config.block_size, seed)
        rows = tf.maximum(order, 0)
        keys = tf.gather(memory.keys, rows, batch_dims=1)
        logits = tf.reduce_sum(self.value_query(states) * keys, -1) * self.dim**-0.5
        logits += tf.gather(memory.bias, rows, batch_dims=1)
        if self.pair_influence is not None:
            logits += self.pair_influence.along(memory.pairs, order)
        return tf.where(order >= 0, self.position_bias(logits), 0.0)

    def policy_logits(
        self, memory: Memory, order: tf.Tensor, block_size: int | None = None, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The policy head's logits of every slot at once, given the whole list (teacher forcing).

        Args:
            memory: From `encode`.
            order: int32 [batch, L], the candidate at each slot, -1 where empty.
            block_size: K; None for the configured one.
            seed: int32 [2], turns dropout on.

        Returns:
            float32 [batch, L, n], not yet masked by what is placed.
        """
        states = self._forced_states(memory, order, block_size or self.config.block_size, seed)
        bias = tf.cast(self.policy_bias(memory.items)[..., 0], tf.float32)
        return self._point(self.policy_query(states), memory) + bias[:, tf.newaxis]

    def generate(
        self,
        memory: Memory,
        block_size: int | None = None,
        strategy: str | None = None,
        beam_width: int | None = None,
    ) -> Decoded:
        """Generates a list of large value; arguments left out come from the configuration.

        Keys and values of earlier blocks are cached: each slot passes the decoder once.
        """
        config = self.config
        slots = self.slots(memory.mask.shape[1])
        return decode(
            _CachedScorer(self, memory, slots),
            memory.mask,
            slots,
            min(block_size or config.block_size, slots),
            strategy or config.decoding,  # type: ignore[arg-type]
            beam_width or config.beam_width,
        )

    def _forced_states(
        self, memory: Memory, order: tf.Tensor, block_size: int, seed: tf.Tensor | None
    ) -> tf.Tensor:
        slots = order.shape[1]
        block_size = min(block_size, slots)
        inputs = tf.repeat(memory.start[:, tf.newaxis], block_size, axis=1)
        if block_size < slots:
            inputs = tf.concat([inputs, self._placed(memory, order[:, : slots - block_size])], 1)
        seen = block_causal_mask(slots, block_size) & (order >= 0)[:, tf.newaxis]
        return self._run(inputs + memory.positions[:, :slots], None, seen, memory, seed=seed)[0]

    def _placed(self, memory: Memory, order: tf.Tensor) -> tf.Tensor:
        """What the slots K after those of `order` int32 [batch, s] read of them, zeros where it is -1."""
        items = self.placed_item(tf.gather(memory.items, tf.maximum(order, 0), batch_dims=1))
        return items * tf.cast(order >= 0, items.dtype)[..., tf.newaxis]

    def _run(
        self,
        inputs: tf.Tensor,
        past: Sequence[KeyValue] | None,
        self_mask: tf.Tensor,
        memory: Memory,
        start: int | tf.Tensor = 0,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, list[KeyValue]]:
        caches = []
        for index, layer in enumerate(self.decoder_layers):
            before = None if past is None else past[index]
            inputs, cache = layer(
                inputs, before, self_mask, memory.cross[index], memory.mask, start, seed=seed
            )
            caches.append(cache)
        return self.decoder_norm(inputs), caches

    def _point(self, queries: tf.Tensor, memory: Memory) -> tf.Tensor:
        logits = tf.matmul(queries, memory.keys, transpose_b=True)
        return tf.cast(logits, tf.float32) * self.dim**-0.5


class _State(NamedTuple):
    """What the decoder carries from slot to slot; the memory too, so that beams may reorder the batch.

    Attributes:
        memory: Of the lists.
        caches: Keys and values of all slots, written up to the present one; one per decoder layer.
        placed: The sum of the pair term's sources over what is placed, [batch, 1, num_heads, head_dim].
    """

    memory: Memory
    caches: Sequence[KeyValue]
    placed: tf.Tensor


class _CachedScorer:
    """The teacher as the decoder sees it."""

    def __init__(self, teacher: Teacher, memory: Memory, slots: int) -> None:
        self.teacher = teacher
        self.memory = memory
        self.slots = slots

    def begin(self) -> _State:
        memory = self.memory
        room = tf.nest.map_structure(self._of_slots, memory.cross)
        return _State(memory, room, tf.zeros_like(memory.pairs.sources[:, :1]))

    def _of_slots(self, part: tf.Tensor) -> tf.Tensor:
        """Zeros like keys or values [batch, heads, n, d] for slots in place of candidates."""
        _, heads, _, dim = part.shape  # known, though batch and candidates need not be
        return tf.zeros([tf.shape(part)[0], heads, self.slots, dim], part.dtype)

    def block(
        self, start: int | tf.Tensor, size: int, previous: tf.Tensor, state: _State
    ) -> tuple[tf.Tensor, _State]:
        teacher, memory = self.teacher, state.memory
        placed = teacher._placed(memory, previous[:, :size])
        inputs = tf.where(tf.equal(start, 0), memory.start[:, tf.newaxis], placed)
        inputs += tf.gather(memory.positions, start + tf.range(size), axis=1)
        seen = memory.filled(self.slots) & (tf.range(self.slots) < start + size)
        states, caches = teacher._run(inputs, state.caches, seen[:, tf.newaxis], memory, start)
        logits = teacher._point(teacher.value_query(states), memory)
        logits += tf.cast(memory.bias, tf.float32)[:, tf.newaxis]
        return logits, state._replace(caches=caches)

    def value(self, logits: tf.Tensor, slot: int | tf.Tensor, state: _State) -> tf.Tensor:
        influence = self.teacher.pair_influence
        if influence is not None:
            pair = influence(state.placed, state.memory.pairs.targets)[:, 0]
            logits += tf.cast(pair, tf.float32)
        return self.teacher.position_bias(logits[:, tf.newaxis], slot)[:, 0]

    def place(self, picks: tf.Tensor, state: _State) -> _State:
        influence = self.teacher.pair_influence
        if influence is None:
            return state
        source = influence.at(state.memory.pairs.sources, picks[:, tf.newaxis])
        return state._replace(placed=state.placed + source)
