"""InfraCheck: can the candidate be served?

The stock InfraValidator starts TensorFlow Serving in Docker or Kubernetes. This component loads the model in
the embedded server, in this process, with the same checks on its files, and sends its warm-up requests over
gRPC; it needs neither. Its output is the same artifact, so that the stock Pusher heeds it.
"""

import os

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import InfraBlessing, Model
from tfx.utils import path_utils


@component
def InfraCheck(
    model: InputArtifact[Model],
    blessing: OutputArtifact[InfraBlessing],
    model_name: Parameter[str],
    max_latency_ms: Parameter[float],
) -> None:
    """Blesses a model that loads and answers its warm-up requests.

    Args:
        model: The candidate.
        blessing: The output; `reason` says why a model is not blessed.
        model_name: Name under which it is served.
        max_latency_ms: Bound on the median latency; 0 sets none.
    """
    from psad_tf.tfx_pipeline.served import check_served  # the server is needed where it runs, not to compile

    found = check_served(path_utils.serving_model_path(model.uri), model_name, max_latency_ms)
    blessing.set_int_custom_property("blessed", int(not found.reason))
    blessing.set_int_custom_property("has_model", 0)
    blessing.set_int_custom_property("requests", found.requests)
    blessing.set_float_custom_property("p50_ms", found.p50_ms)
    blessing.set_string_custom_property("reason", found.reason)
    name = "INFRA_NOT_BLESSED" if found.reason else "INFRA_BLESSED"
    with open(os.path.join(blessing.uri, name), "w", encoding="utf-8") as file:
        file.write(found.reason)
