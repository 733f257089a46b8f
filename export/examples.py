"""Serialized ExampleListWithContext protos to raw tensors, for the serving graph.

Gives what `psad_tf.data.parsing.parse_lists` gives (a test and the parity check hold them together), and
refuses a list that is too long before its candidates are parsed: padding lists up to the limit first, or
the whole batch to one endless list, would cost a server more than the model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from google.protobuf import descriptor_pb2

# input.proto's message with its parts left as bytes: the wire format is the same, nothing is decoded twice.
_PACKAGE, _MESSAGE = "psad.serving", "SerializedLists"


def parse_examples(
    serialized: tf.Tensor,
    context_spec: Mapping[str, Any],
    candidate_spec: Mapping[str, Any],
    most_candidates: int,
) -> dict[str, tf.Tensor]:
    """Parses a batch of lists; N is the longest list's length, at least 1.

    Args:
        serialized: string [batch].
        context_spec: Features of the context.
        candidate_spec: Features of each candidate.
        most_candidates: A longer list is an InvalidArgumentError.

    Returns:
        Context features [batch, ...], candidate features [batch, N, ...]; shorter lists are padded with the
        features' defaults.
    """
    _, (contexts, candidates) = tf.io.decode_proto(
        serialized,
        message_type=f"{_PACKAGE}.{_MESSAGE}",
        field_names=["context", "examples"],
        output_types=[tf.string, tf.string],
        descriptor_source=b"bytes://" + _descriptors(),
    )
    batch = tf.shape(serialized)[0]
    length = tf.shape(candidates)[1]
    fits = tf.debugging.assert_less_equal(
        length, most_candidates, message=f"a list has more than {most_candidates} candidates"
    )
    with tf.control_dependencies([fits]):
        candidates = tf.pad(candidates, [[0, 0], [0, tf.maximum(1 - length, 0)]])
    length = tf.maximum(length, 1)
    # A list without context has no element in its row: the empty string is an Example without features.
    contexts = tf.pad(contexts, [[0, 0], [0, 1]])[:, 0]
    parsed = dict(tf.io.parse_example(contexts, dict(context_spec)))
    flat = tf.io.parse_example(tf.reshape(candidates, [-1]), dict(candidate_spec))
    for name, values in flat.items():
        shape = tf.concat([[batch, length], tf.shape(values)[1:]], 0)
        parsed[name] = tf.ensure_shape(tf.reshape(values, shape), [None, None, *values.shape[1:]])
    return parsed


def _descriptors() -> bytes:
    file = descriptor_pb2.FileDescriptorProto(
        name="psad_serialized_lists.proto", package=_PACKAGE, syntax="proto3"
    )
    message = file.message_type.add(name=_MESSAGE)
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="examples", number=1, type=kinds.TYPE_BYTES, label=kinds.LABEL_REPEATED)
    message.field.add(name="context", number=2, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
