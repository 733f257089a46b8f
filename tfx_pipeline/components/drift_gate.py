"""DriftGate: ends the run where the data changed more since the span before than the drift rules allow.

The stock ExampleValidator compares statistics with a schema only, not with earlier ones.
"""

from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.component.experimental.annotations import InputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common import resolver
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from psad_tf.tfx_pipeline.components.anomaly_gate import DataAnomaly

_SPLIT = "train"


class SpanBefore(resolver.ResolverStrategy):
    """Of all statistics of one type, those of the latest span before the run's own."""

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Gives `earlier` (none where this is the first span) and passes `statistics` on."""
        (now,) = input_dict["statistics"]
        before = [each for each in input_dict["earlier"] if each.span < now.span]
        return {
            "statistics": [now],
            "earlier": [max(before, key=lambda each: (each.span, each.id))] if before else [],
        }


@component
def DriftGate(
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    schema: InputArtifact[standard_artifacts.Schema],
    earlier: InputArtifact[standard_artifacts.ExampleStatistics] = None,
) -> None:
    """Raises `DataAnomaly`, which names the features, where the training lists drifted.

    Args:
        statistics: Of the run's span.
        schema: With the drift rules' thresholds.
        earlier: Of the span before; without it there is nothing to compare with.
    """
    if earlier is None:
        return
    drifted = check_drift(
        stats_artifact_utils.load_statistics(statistics, _SPLIT).proto(),
        stats_artifact_utils.load_statistics(earlier, _SPLIT).proto(),
        tfdv.load_schema_text(io_utils.get_only_uri_in_dir(schema.uri)),
    )
    if drifted:
        raise DataAnomaly(
            f"the data of span {statistics.span} differ from those of span {earlier.span}: "
            f"{'; '.join(drifted[:5])}; look at what changed, or widen the drift rules if it is right"
        )


def check_drift(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    earlier: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
) -> list[str]:
    """A line per drift: what breaks the schema without a comparison is the AnomalyGate's to say."""

    def reasons(**compared: object) -> dict[tuple[str, str], str]:
        anomalies = tfdv.validate_statistics(statistics, schema, **compared).anomaly_info
        return {
            (name, reason.short_description): f"{name}: {reason.description}"
            for name, info in sorted(anomalies.items())
            for reason in info.reason
        }

    alone = reasons()
    return [line for key, line in reasons(previous_statistics=earlier).items() if key not in alone]
