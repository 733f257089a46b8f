"""The serving graph: from raw request tensors, or serialized lists, to a ranking.

    raw tensors --FeatureEncoder--> ids, dense --Reranker--> scores --sort--> ranking, item ids

Lookups, missing values, history padding and the sort are inside the graph. Strings stay outside the
part that XLA may compile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from psad_tf.data.encoder import FeatureEncoder, chosen
from psad_tf.data.parsing import candidate_spec, context_spec
from psad_tf.export.checks import check_agreement, check_size
from psad_tf.export.examples import parse_examples
from psad_tf.export.served_layers import ServedLayers
from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    ITEM_ID,
    NEGATIVE,
    RELEVANCE,
    SHOWN_POSITION,
    FeatureDeclaration,
)
from psad_tf.masking import LARGE_NEGATIVE
from psad_tf.models.student import Reranker
from psad_tf.serving.contract import (
    BLOCKED,
    EXAMPLES,
    ITEM_IDS,
    LENGTH,
    PADDING_ITEM_ID,
    PADDING_POSITION,
    PROBABILITIES,
    RANKING,
    RERANK_EXAMPLES,
    RERANK_MASKED,
    SCORES,
    SERVING_DEFAULT,
    Limits,
)

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclasses.dataclass(frozen=True)
class GraphOptions:
    """How the serving graph is built.

    Args:
        top_m: Length of `ranking` and `item_ids`; 0 gives all candidates.
        jit_compile: Compile the scoring with XLA; lists and batches are then padded inside the graph to
            a few sizes, so that few shapes are compiled.
        float16: Store matrices in float16 (computation stays float32).
    """

    top_m: int = 0
    jit_compile: bool = False
    float16: bool = False


def raw_specs(declaration: FeatureDeclaration) -> dict[str, tf.TensorSpec]:
    """The inputs of `serving_default`: one tensor a feature, by its name on the wire.

    Returns:
        context: categorical [batch, width], dense [batch]; history, any number of interactions up to the
        caller, most recent first: categorical [batch, h, width], dense [batch, h]; candidates:
        categorical [batch, n, width], dense [batch, n], `initial_rank` int64 [batch, n]. Missing is ""
        or NaN, -1 for `initial_rank` (the position is then taken); a candidate without an item id is
        padding.
    """
    specs: dict[str, tf.TensorSpec] = {}

    def add(name: str, shape: list[int | None], dtype: tf.DType) -> None:
        specs[name] = tf.TensorSpec(shape, dtype, name=name)

    for feature in declaration.context_categorical:
        add(feature.name, [None, feature.width], tf.string)
    for dense in declaration.context_dense:
        add(dense.name, [None], tf.float32)
    for feature in declaration.history.categorical:
        add(HISTORY_PREFIX + feature.name, [None, None, feature.width], tf.string)
    for dense in declaration.history.dense:
        add(HISTORY_PREFIX + dense.name, [None, None], tf.float32)
    for feature in declaration.candidate_categorical:
        add(feature.name, [None, None, feature.width], tf.string)
    for dense in declaration.candidate_dense:
        add(dense.name, [None, None], tf.float32)
    add(INITIAL_RANK, [None, None], tf.int64)
    return specs


def limits_of(declaration: FeatureDeclaration) -> Limits:
    """How much a model of these features takes at once."""
    return Limits(declaration.max_candidates, declaration.history.length)


class ServingModule(tf.Module):
    """What is saved: lookup tables, the weights of User Profile Network and student, three signatures.

    The Keras model itself is not tracked, only its variables, so that the SavedModel holds nothing but
    what the signatures use.

    Args:
        encoder: Of the run.
        reranker: Of the run.
        options: How the graph is built.

    Attributes:
        limits: How much the graph takes at once.
    """

    def __init__(self, encoder: FeatureEncoder, reranker: Reranker, options: GraphOptions) -> None:
        super().__init__(name="serving")
        self.encoder = encoder
        self._declaration = encoder.declaration
        self._options = options
        self.limits = limits_of(encoder.declaration)
        layers = ServedLayers(reranker, options.float16)
        self.parameters = _named(layers.variables)

        def score(encoded: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            with layers.in_graph(*tf.unstack(tf.shape(encoded["mask"]))):
                return reranker(encoded)

        self._score: Callable[..., Any] = (
            tf.function(score, jit_compile=True, autograph=False) if options.jit_compile else score
        )

    def signatures(self) -> dict[str, Any]:
        """The concrete functions by signature name."""
        specs = raw_specs(self._declaration)
        masked = {**specs, BLOCKED: tf.TensorSpec([None, None], tf.bool, name=BLOCKED)}
        examples = tf.TensorSpec([None], tf.string, name=EXAMPLES)
        return {
            SERVING_DEFAULT: tf.function(self._rerank_raw, autograph=False).get_concrete_function(**specs),
            RERANK_MASKED: tf.function(self._rerank_raw, autograph=False).get_concrete_function(**masked),
            RERANK_EXAMPLES: tf.function(self._rerank_examples, autograph=False).get_concrete_function(
                examples=examples
            ),
        }

    def _rerank_raw(self, **raw: tf.Tensor) -> dict[str, tf.Tensor]:
        lists, candidates = tf.unstack(tf.shape(raw[ITEM_ID])[:2])
        with tf.control_dependencies(check_agreement(raw) + check_size(lists, candidates, self.limits)):
            raw = {name: tf.identity(values) for name, values in raw.items()}
        return self._rank(raw, raw.pop(BLOCKED, None))

    def _rerank_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        candidate = {
            name: feature
            for name, feature in candidate_spec(self._declaration).items()
            if name not in (RELEVANCE, NEGATIVE, SHOWN_POSITION, INITIAL_RANK)  # of no use to the student
        }
        candidate[BLOCKED] = tf.io.FixedLenFeature([], tf.int64, 0)
        raw = parse_examples(examples, context_spec(self._declaration), candidate, self.limits)
        return self._rank(raw, tf.cast(raw[BLOCKED], tf.bool))

    def _rank(self, raw: Mapping[str, tf.Tensor], blocked: tf.Tensor | None) -> dict[str, tf.Tensor]:
        item_ids = tf.squeeze(raw[ITEM_ID], -1)  # [batch, n]
        encoded = dict(self.encoder(raw))
        if blocked is not None:
            encoded["mask"] = encoded["mask"] & ~blocked
        scored = self._padded_score(encoded) if self._options.jit_compile else self._score(encoded)
        present = item_ids != PADDING_ITEM_ID
        length = tf.reduce_sum(tf.cast(present, tf.int32), 1)
        # Blocked items, of score -1e9, rank above padding: every shown item comes first and padding last.
        shape = tf.shape(item_ids)
        keys = chosen(present, scored["scores"], tf.fill(shape, 2.0 * LARGE_NEGATIVE))
        # Equal scores keep the order.
        order = tf.math.top_k(keys, shape[1]).indices
        if self._options.top_m:
            order = order[:, : self._options.top_m]
        shown_ids = chosen(encoded["mask"], item_ids, tf.zeros_like(item_ids))  # PADDING_ITEM_ID
        within = tf.range(tf.shape(order)[1]) < tf.expand_dims(length, 1)
        ranking = chosen(within, order, tf.fill(tf.shape(order), PADDING_POSITION))
        return {
            SCORES: tf.identity(scored["scores"], name=SCORES),
            PROBABILITIES: tf.identity(scored["probabilities"], name=PROBABILITIES),
            RANKING: tf.identity(ranking, name=RANKING),
            ITEM_IDS: tf.gather(shown_ids, order, batch_dims=1, name=ITEM_IDS),
            LENGTH: tf.identity(length, name=LENGTH),
        }

    def _padded_score(self, encoded: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Scores lists padded to one of a few sizes, and cuts the padding off again."""
        lists, length = tf.unstack(tf.shape(encoded["mask"]))
        more_lists = _next_size(lists, _BATCH_SIZES) - lists
        more_candidates = _next_size(length, self.limits.list_sizes) - length
        candidate = {feature.name for feature in self._declaration.candidate_categorical}
        candidate |= {"candidate_dense", "mask", INITIAL_RANK}
        padded = {}
        for name, value in encoded.items():
            paddings = [[0, 0]] * value.shape.rank
            paddings[0] = [0, more_lists]
            if name in candidate:
                paddings[1] = [0, more_candidates]
            padded[name] = tf.pad(value, paddings)
        scored = self._score(padded)
        return {name: scored[name][:lists, :length] for name in ("scores", "probabilities")}


def _next_size(size: tf.Tensor, sizes: tuple[int, ...]) -> tf.Tensor:
    """The smallest of `sizes` that is at least `size`; above the largest, its next multiple."""
    steps = tf.constant(sizes)
    index = tf.searchsorted(steps, size[tf.newaxis])[0]
    multiple = -(-size // sizes[-1]) * sizes[-1]
    return tf.where(index < len(sizes), tf.gather(steps, tf.minimum(index, len(sizes) - 1)), multiple)


def _named(weights: list[tf.Variable]) -> dict[str, tf.Variable]:
    """Variables under their own names: the names are what a reader of the checkpoint sees."""
    named: dict[str, tf.Variable] = {}
    for weight in weights:
        name = weight.name.split(":")[0]
        unique, count = name, 1
        while unique in named:
            count += 1
            unique = f"{name}_{count}"
        named[unique] = weight
    return named
