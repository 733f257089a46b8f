"""Serialized ExampleListWithContext protos to raw tensors, for the serving graph.

Gives what `psad_tf.data.parsing.parse_lists` gives (a test and the parity check hold them together), and
refuses what is too large before its candidates are parsed: padding lists up to the limit first, or the whole
batch to one endless list, would cost a server more than the model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from psad_tf.export.checks import check_size
from psad_tf.serving.contract import MAX_SERIALIZED_BYTES, Limits
from psad_tf.serving.serialized_lists import DESCRIPTOR_SET, MESSAGE_TYPE


def split_lists(serialized: tf.Tensor, limits: Limits) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes the Examples out of a batch of lists; N is the longest list's length.

    Args:
        serialized: string [batch].
        limits: More candidates, or more lists of so many, are an InvalidArgumentError.

    Returns:
        Contexts, string [batch], and candidates, string [batch, N], "" past a list's end. The empty string
        is an Example without features, of a list without context as well.
    """
    batch = tf.size(serialized, tf.int64)
    most_bytes = tf.reduce_max(tf.strings.length(serialized))
    small = tf.debugging.Assert(
        batch * tf.cast(most_bytes, tf.int64) <= MAX_SERIALIZED_BYTES,
        ["the lists are too large: send fewer lists in a request"],
    )
    with tf.control_dependencies([small]):
        serialized = tf.identity(serialized)
    _, (contexts, candidates) = tf.io.decode_proto(
        serialized,
        message_type=MESSAGE_TYPE,
        field_names=["context", "examples"],
        output_types=[tf.string, tf.string],
        descriptor_source=b"bytes://" + DESCRIPTOR_SET,
    )
    with tf.control_dependencies(check_size(tf.shape(candidates), limits)):
        return tf.strings.reduce_join(contexts, 1), tf.identity(candidates)


def parse_examples(
    contexts: tf.Tensor,
    candidates: tf.Tensor,
    context_spec: Mapping[str, Any],
    candidate_spec: Mapping[str, Any],
) -> dict[str, tf.Tensor]:
    """Parses what `split_lists` gives.

    Args:
        contexts: string [batch].
        candidates: string [batch, N].
        context_spec: Features of the context.
        candidate_spec: Features of each candidate.

    Returns:
        Context features [batch, ...], candidate features [batch N, ...], one list after another; shorter
        lists are padded with the features' defaults.
    """
    parsed = dict(tf.io.parse_example(contexts, dict(context_spec)))
    # An Example reads as a SequenceExample with context features alone: both have them in field 1. Those are
    # parsed in the caller's thread; `parse_example` cuts every batch into eight parts for other threads.
    of_candidates, _, _ = tf.io.parse_sequence_example(
        tf.reshape(candidates, [-1]), context_features=dict(candidate_spec), sequence_features={}
    )
    return parsed | of_candidates
