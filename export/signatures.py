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

from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.parsing import candidate_spec, context_spec
from psad_tf.export.checks import check_agreement, check_size
from psad_tf.export.compiled_reranker import CompiledReranker
from psad_tf.export.examples import parse_examples, split_lists
from psad_tf.export.padding import Padding
from psad_tf.export.served_layers import ServedLayers
from psad_tf.export.served_reranker import Ranked, ServedReranker
from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    ITEM_ID,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    SHOWN_POSITION,
    FeatureDeclaration,
)
from psad_tf.models.student import Reranker
from psad_tf.serving.contract import (
    BLOCKED,
    EXAMPLES,
    ITEM_IDS,
    LENGTH,
    PADDING_ITEM_ID,
    PROBABILITIES,
    RANKING,
    RERANK_EXAMPLES,
    RERANK_MASKED,
    SCORES,
    SERVING_DEFAULT,
    Limits,
)


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
        vocabulary_dir: An empty folder for files that the graph's lookup tables are read from; they must stay
            until the module is saved.

    Attributes:
        limits: How much the graph takes at once.
    """

    def __init__(
        self, encoder: FeatureEncoder, reranker: Reranker, options: GraphOptions, vocabulary_dir: str
    ) -> None:
        super().__init__(name="serving")
        self._declaration = encoder.declaration
        self._options = options
        self.limits = limits_of(encoder.declaration)
        layers = ServedLayers(reranker, options.float16)
        self.parameters = _named(layers.variables)
        served = ServedReranker(encoder, reranker, layers, vocabulary_dir, options.top_m)
        self._ranked: Callable[..., Ranked] = served
        if options.jit_compile:
            self._ranked = CompiledReranker(served, encoder.declaration)

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
        sizes = tf.shape(raw[ITEM_ID])[:2]
        with tf.control_dependencies([check_agreement(raw), *check_size(sizes, self.limits)]):
            raw = {name: tf.identity(values) for name, values in raw.items()}
        padding = Padding.of(sizes, self.limits) if self._options.jit_compile else None
        if padding is not None:
            raw = padding.of_raw(raw)
        return self._answer(raw, tf.squeeze(raw[ITEM_ID], -1), raw.pop(BLOCKED, None), padding)

    def _rerank_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        candidate_features = {
            name: feature
            for name, feature in candidate_spec(self._declaration).items()
            if name not in (RELEVANCE, NEGATIVE, SHOWN_POSITION, INITIAL_RANK)  # of no use to the student
        }
        candidate_features[BLOCKED] = tf.io.FixedLenFeature([], tf.int64, 0)
        context_features = context_spec(self._declaration)
        del context_features[REQUEST_ID]
        contexts, candidates = split_lists(examples, self.limits)
        padding = Padding.of(tf.shape(candidates), self.limits) if self._options.jit_compile else None
        if padding is not None:
            contexts, candidates = padding.of_lists(contexts), padding.of_candidates(candidates)
        raw = parse_examples(contexts, candidates, context_features, candidate_features)
        item_ids = tf.reshape(raw[ITEM_ID], tf.shape(candidates))
        return self._answer(raw, item_ids, raw[BLOCKED], padding)

    def _answer(
        self,
        raw: Mapping[str, tf.Tensor],
        item_ids: tf.Tensor,
        blocked: tf.Tensor | None,
        padding: Padding | None,
    ) -> dict[str, tf.Tensor]:
        """The outputs for item ids [b, n]."""
        ranked = self._ranked(raw, tf.shape(item_ids), blocked)
        or_none = tf.pad(item_ids, [[0, 0], [0, 1]], constant_values=PADDING_ITEM_ID)
        answer = {
            SCORES: ranked.scores,
            PROBABILITIES: ranked.probabilities,
            RANKING: ranked.ranking,
            ITEM_IDS: tf.gather(or_none, ranked.shown, batch_dims=1),
            LENGTH: ranked.length,
        }
        return answer if padding is None else padding.cut(answer, self._options.top_m)


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
