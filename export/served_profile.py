"""The User Profile Network as the serving graph has it: the same numbers by fewer operations.

Rows of all lists are multiplied by one kernel; what is the same for all candidates of a list is computed once
a list; linear layers that follow each other are one. `psad_tf.layers.user_profile_network` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from psad_tf.export.served_features import ServedInputs, column_order
from psad_tf.export.served_layers import ServedLayers, as_rows
from psad_tf.features import DenseFeature
from psad_tf.layers.list_context import SMALLEST_VARIANCE
from psad_tf.layers.mlp import MLP
from psad_tf.layers.user_profile_network import UserProfileNetwork
from psad_tf.masking import LARGE_NEGATIVE, mean_weights


class ServedProfile(NamedTuple):
    """What the student is given.

    Attributes:
        intent: z, [b, d].
        hidden: The candidates before the last layer of the network, `candidate.out`, which is linear and
            left to the reader: [b n, d].
    """

    intent: tf.Tensor
    hidden: tf.Tensor


def served_profile(
    network: UserProfileNetwork, layers: ServedLayers, inputs: ServedInputs, mask: tf.Tensor
) -> ServedProfile:
    """Adds the network to the current graph.

    Args:
        network: The built layer.
        layers: The weights.
        inputs: The request.
        mask: bool [b, n], false at padding and at candidates that are blocked.
    """
    config, declaration, dim = network.config, network.declaration, network.dim
    of_lists = inputs.of_lists
    context_dense, history_dense, candidate_dense = inputs.dense

    user = _mlp_of_features(layers, network.profile, inputs.users, context_dense, declaration.context_dense)
    history = _mlp_of_features(layers, network.history, inputs.past, history_dense, declaration.history.dense)
    # History of the shape [b, h, d], zeros at padding: what is summed up needs no further mask.
    past_mask = tf.cast(inputs.history_mask, tf.float32)
    history = inputs.of_histories(history) * tf.expand_dims(past_mask, 2)
    past_mask = tf.expand_dims(past_mask, 1)
    penalty = (1.0 - past_mask) * LARGE_NEGATIVE
    mean, recent = _mean_weights(past_mask, declaration.history.length, config.short_term_length)

    kernel = layers.values(network.pooling_query.kernel) * np.float32(dim**-0.5)
    query = tf.expand_dims(tf.matmul(user, layers.constant(kernel)), 1)
    attention = tf.nn.softmax(tf.matmul(query, history, transpose_b=True) + penalty)
    interests = tf.matmul(tf.concat([attention, recent], 1), history)  # [b, 2, d]: long-term, short-term
    intent = layers.mlp(network.intent, tf.concat([user, tf.reshape(interests, [-1, 2 * dim])], -1))
    intents = tf.expand_dims(intent, 1)

    item = layers.dense(network.item, _joined(inputs.items))
    gated = item
    if config.personalized_gates:
        gated = item * (2.0 * tf.sigmoid(_gate(network, layers, item, intent, inputs)))
    gated_in_lists = of_lists(gated)
    dense = [] if candidate_dense is None else [candidate_dense]
    if config.relative_features and dense:
        dense.append(as_rows(_standardized_in_list(of_lists(candidate_dense), mask)))
    # Rows are joined: XLA multiplies such parts one by one, those of lists it would compute number by number.
    parts = [gated, *dense, as_rows(gated_in_lists * intents)]
    if config.history_match:
        parts += map(as_rows, _history_matches(network, inputs, mean))
    if config.target_attention:
        query = of_lists(_target_query(network, layers, item))
        weights = tf.nn.softmax(tf.matmul(query, history, transpose_b=True) + penalty)
        parts.append(as_rows(tf.matmul(weights, history)))
    if config.cross:
        users = tf.broadcast_to(tf.expand_dims(user, 1), tf.shape(gated_in_lists))
        crossed = tf.concat([as_rows(users), gated], -1)
        with layers.in_graph(network.cross):
            parts.append(network.cross(crossed))
    first, _ = layers.kernel_and_bias(network.candidate.hidden[0])
    kernel = _as_served(first, dim, declaration.candidate_dense, times=len(dense))
    hidden = layers.hidden(network.candidate, tf.concat(parts, -1), kernel)
    return ServedProfile(intent, hidden)


def _as_served(
    kernel: np.ndarray, start: int, features: Sequence[DenseFeature], times: int = 1
) -> np.ndarray:
    """A kernel whose rows from `start` on, those of dense features, stand as the features are served."""
    order = column_order(features)
    rows = [start + repeat * len(order) + index for repeat in range(times) for index in order]
    return np.concatenate([kernel[:start], kernel[rows], kernel[start + len(rows) :]])


def _mlp_of_features(
    layers: ServedLayers,
    mlp: MLP,
    embedded: list[tf.Tensor],
    dense: tf.Tensor | None,
    features: Sequence[DenseFeature],
) -> tf.Tensor:
    """`mlp` of embeddings and numbers side by side."""
    parts = embedded if dense is None else [*embedded, dense]
    first, _ = layers.kernel_and_bias(mlp.hidden[0])
    kernel = _as_served(first, sum(each.shape[-1] for each in embedded), features)
    return layers.mlp(mlp, _joined(parts), kernel)


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    return tf.concat(parts, -1) if len(parts) > 1 else parts[0]


def _mean_weights(past_mask: tf.Tensor, length: int, recent: int) -> tuple[tf.Tensor, tf.Tensor]:
    """[b, 1, h] each: the weights of the mean over a history, and over its `recent` first entries."""
    counted = np.ones([1, 2, length], np.float32)
    counted[0, 1, recent:] = 0.0
    entries = past_mask * tf.constant(counted)[:, :, : tf.shape(past_mask)[2]]
    weights = entries / tf.maximum(tf.reduce_sum(entries, -1, keepdims=True), 1.0)
    mean, short_term = tf.split(weights, [1, 1], 1)
    return mean, short_term


def _gate(
    network: UserProfileNetwork,
    layers: ServedLayers,
    item: tf.Tensor,
    intent: tf.Tensor,
    inputs: ServedInputs,
) -> tf.Tensor:
    """MLP([z ; e_i]), [b n, d]: the intent's part of the first product once a list."""
    first = network.gate.hidden[0]
    kernel, bias = layers.kernel_and_bias(first)
    of_intent = tf.expand_dims(layers.affine(intent, kernel[: network.dim], bias), 1)
    of_item = inputs.of_lists(tf.matmul(item, layers.constant(kernel[network.dim :])))
    hidden = tf.reshape(first.activation(of_item + of_intent), [-1, kernel.shape[1]])
    for layer in network.gate.hidden[1:]:
        hidden = layers.dense(layer, hidden)
    return layers.dense(network.gate.out, hidden)


def _target_query(network: UserProfileNetwork, layers: ServedLayers, item: tf.Tensor) -> tf.Tensor:
    """q_i W_k^T / sqrt(d), [b n, d], to be multiplied with the history as it is.

    q_i . k_j = q_i W_k^T h_j + q_i . b_k, and what is the same for all j does not change the softmax over j.
    """
    query, query_bias = layers.kernel_and_bias(network.target_query)
    key = layers.kernel_and_bias(network.target_key)[0].T * np.float32(network.dim**-0.5)
    return layers.affine(item, query @ key, query_bias @ key)


def _history_matches(network: UserProfileNetwork, inputs: ServedInputs, mean: tf.Tensor) -> list[tf.Tensor]:
    """e_v(i) * mean_j e_v(h_j) of the vocabularies v that candidates and history share, side by side."""
    declaration = network.declaration
    of_vocabulary = {
        feature.vocabulary: embedded
        for feature, embedded in zip(declaration.candidate_categorical, inputs.items, strict=True)
    }
    shared = [
        (of_vocabulary[feature.vocabulary], embedded)
        for feature, embedded in zip(declaration.history.categorical, inputs.past, strict=True)
        if feature.vocabulary in of_vocabulary
    ]
    if not shared:
        return []
    items, past = (_joined(list(each)) for each in zip(*shared, strict=True))
    return [inputs.of_lists(items) * tf.matmul(mean, inputs.of_histories(past))]


def _standardized_in_list(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`standardized_in_list`, whatever it gives at padding."""
    weights = mean_weights(mask, tf.float32)
    centred = values - tf.matmul(weights, values)
    variance = tf.matmul(weights, tf.square(centred))
    return centred * tf.math.rsqrt(variance + SMALLEST_VARIANCE)
