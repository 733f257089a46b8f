"""The TFMD schema that the flat candidates are validated against."""

from __future__ import annotations

from tensorflow_metadata.proto.v0 import schema_pb2

from psad_tf.beam.schema import record_schema
from psad_tf.features import (
    INITIAL_RANK,
    ITEM_ID,
    NEGATIVE,
    RELEVANCE,
    REQUEST_ID,
    REQUEST_TIME,
    SHOWN_POSITION,
    FeatureDeclaration,
)
from psad_tf.tfx_pipeline.rules import DataRules

_ALWAYS_PRESENT = frozenset({REQUEST_ID, REQUEST_TIME, ITEM_ID, INITIAL_RANK, SHOWN_POSITION})


def candidate_schema(declaration: FeatureDeclaration, rules: DataRules) -> schema_pb2.Schema:
    """The declaration's features, as `flatten.py` writes them, with the rules' bounds.

    Differs from the `schema.pbtxt` beside the lists where flat candidates do: a missing value is an absent
    feature, so a feature has 1 to `width` values where it is present at all.

    Args:
        declaration: The features.
        rules: Bounds on values, presence and domains.

    Returns:
        A schema that knows every feature; one that it does not know is an anomaly.
    """
    schema = record_schema(declaration)
    for feature in schema.feature:
        if feature.HasField("shape"):
            (dimension,) = feature.shape.dim
            feature.ClearField("shape")
            feature.value_count.min, feature.value_count.max = 1, dimension.size
        feature.presence.min_fraction = 1.0 if feature.name in _ALWAYS_PRESENT else 0.0
    by_name = {feature.name: feature for feature in schema.feature}
    by_name[INITIAL_RANK].int_domain.min = 0
    by_name[INITIAL_RANK].int_domain.max = declaration.max_candidates - 1
    by_name[SHOWN_POSITION].int_domain.min = -1
    by_name[SHOWN_POSITION].int_domain.max = declaration.max_candidates - 1
    _bound(by_name[RELEVANCE], 0.0, max(rule.grade for rule in declaration.label.grades))
    _bound(by_name[NEGATIVE], 0.0, 1.0)
    for bounds in rules.ranges:
        _bound(by_name[bounds.feature], bounds.at_least, bounds.at_most)
    for presence in rules.presence:
        by_name[presence.feature].presence.min_fraction = presence.at_least
    for domain in rules.domains:
        feature = by_name[domain.feature]
        feature.string_domain.value.extend(domain.values)
        feature.distribution_constraints.min_domain_mass = domain.at_least
    for drift in rules.drift:
        feature = by_name[drift.feature]
        if feature.type == schema_pb2.BYTES:
            feature.drift_comparator.infinity_norm.threshold = drift.at_most
        else:
            feature.drift_comparator.jensen_shannon_divergence.threshold = drift.at_most
    return schema


def _bound(feature: schema_pb2.Feature, min_value: float, max_value: float) -> None:
    feature.float_domain.min, feature.float_domain.max = min_value, max_value
