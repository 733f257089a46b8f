"""The TensorFlow Metadata schema of the records' features."""

from __future__ import annotations

from tensorflow_metadata.proto.v0 import schema_pb2

from psad_tf.features import (
    HISTORY_PREFIX,
    INITIAL_RANK,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    REQUEST_TIME,
    SHOWN_POSITION,
    FeatureDeclaration,
)


def record_schema(declaration: FeatureDeclaration) -> schema_pb2.Schema:
    """The features as they stand in the records: names, types and number of values.

    Context features come first, then the history's, then the candidates'; an annotation tag on each says to
    which part it belongs (`context`, `history` or `candidate`). A history feature has any number of values up
    to `length * width`; every other feature has a fixed number.
    """
    schema = schema_pb2.Schema()
    add = _Adder(schema)
    add.fixed("context", REQUEST_ID, schema_pb2.BYTES, 1)
    add.fixed("context", REQUEST_TIME, schema_pb2.INT, 1)
    for categorical in declaration.context_categorical:
        add.fixed("context", categorical.name, schema_pb2.BYTES, categorical.width)
    for dense in declaration.context_dense:
        add.fixed("context", dense.name, schema_pb2.FLOAT, 1)
    length = declaration.history.length
    for categorical in declaration.history.categorical:
        name = HISTORY_PREFIX + categorical.name
        add.ragged("history", name, schema_pb2.BYTES, length * categorical.width)
    for dense in declaration.history.dense:
        add.ragged("history", HISTORY_PREFIX + dense.name, schema_pb2.FLOAT, length)
    for categorical in declaration.candidate_categorical:
        add.fixed("candidate", categorical.name, schema_pb2.BYTES, categorical.width)
    for dense in declaration.candidate_dense:
        add.fixed("candidate", dense.name, schema_pb2.FLOAT, 1)
    for name in (INITIAL_RANK, SHOWN_POSITION):
        add.fixed("candidate", name, schema_pb2.INT, 1)
    for name in (RELEVANCE, NEGATIVE):
        add.fixed("candidate", name, schema_pb2.FLOAT, 1)
    return schema


class _Adder:
    def __init__(self, schema: schema_pb2.Schema) -> None:
        self._schema = schema

    def fixed(self, part: str, name: str, kind: int, width: int) -> None:
        feature = self._schema.feature.add(name=name, type=kind)
        feature.annotation.tag.append(part)
        feature.presence.min_fraction = 1.0
        feature.shape.dim.add(size=width)

    def ragged(self, part: str, name: str, kind: int, most: int) -> None:
        feature = self._schema.feature.add(name=name, type=kind)
        feature.annotation.tag.append(part)
        feature.value_count.min = 0
        feature.value_count.max = most
