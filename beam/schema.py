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

    def add(part: str, name: str, kind: int, width: int = 1) -> None:
        feature = schema.feature.add(name=name, type=kind)
        feature.annotation.tag.append(part)
        if part == "history":
            feature.value_count.min = 0
            feature.value_count.max = declaration.history.length * width
        else:
            feature.presence.min_fraction = 1.0
            feature.shape.dim.add(size=width)

    add("context", REQUEST_ID, schema_pb2.BYTES)
    add("context", REQUEST_TIME, schema_pb2.INT)
    history = declaration.history
    for part, prefix, categorical, dense in (
        ("context", "", declaration.context_categorical, declaration.context_dense),
        ("history", HISTORY_PREFIX, history.categorical, history.dense),
        ("candidate", "", declaration.candidate_categorical, declaration.candidate_dense),
    ):
        for feature in categorical:
            add(part, prefix + feature.name, schema_pb2.BYTES, feature.width)
        for number in dense:
            add(part, prefix + number.name, schema_pb2.FLOAT)
    for name in (INITIAL_RANK, SHOWN_POSITION):
        add("candidate", name, schema_pb2.INT)
    for name in (RELEVANCE, NEGATIVE):
        add("candidate", name, schema_pb2.FLOAT)
    return schema
