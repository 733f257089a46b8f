"""AnomalyGate: ends the run where ExampleValidator found an anomaly.

The stock ExampleValidator reports anomalies and lets the run go on. It has to report them in an execution
that succeeds, for its output would be dropped otherwise; so the gate is a component of its own, and the
anomalies stay in the metadata store to be looked at.
"""

import os

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import ExampleAnomalies

from psad_tf.errors import InputError


class DataAnomaly(InputError):
    """The data break the schema."""


@component
def AnomalyGate(anomalies: InputArtifact[ExampleAnomalies]) -> None:
    """Raises `DataAnomaly`, which names splits and features, unless every split is free of anomalies.

    Args:
        anomalies: ExampleValidator's output.
    """
    check_anomalies(anomalies)


def check_anomalies(anomalies: ExampleAnomalies) -> None:
    """The gate's work.

    Raises:
        DataAnomaly: A split has an anomaly, or no data.
    """
    found = []
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        folder = artifact_utils.get_split_uri([anomalies], split)
        with open(os.path.join(folder, "SchemaDiff.pb"), "rb") as file:
            report = anomalies_pb2.Anomalies.FromString(file.read())
        if report.data_missing:
            found.append(f"{split} has no data")
        if report.HasField("dataset_anomaly_info"):
            found.append(f"{split}: {report.dataset_anomaly_info.description}")
        found += [
            f"{split}: {name}: {info.description or info.short_description}"
            for name, info in sorted(report.anomaly_info.items())
        ]
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataAnomaly(
            f"the data break the schema: {'; '.join(found[:5])}{more}; correct the raw data, or the data "
            f"rules if these values are right (the whole report: {anomalies.uri})"
        )
