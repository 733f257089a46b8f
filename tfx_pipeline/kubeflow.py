"""Compiles the pipeline into a job file of Kubeflow Pipelines v2, for Vertex AI for instance."""

from __future__ import annotations

import os

from psad_tf.errors import InputError
from psad_tf.files import replaced_file
from psad_tf.tfx_pipeline.dependencies import KUBEFLOW_SETUP, require_kubeflow, require_tfx
from psad_tf.tfx_pipeline.settings import PipelineSettings


def compile_for_kubeflow(
    settings: PipelineSettings, output: str | os.PathLike[str], image: str, span: int | None = None
) -> None:
    """Writes the job file.

    Args:
        settings: The pipeline's; every path in it must mean the same in every container.
        output: The JSON file to write.
        image: A container image with this library and requirements-dev.txt.
        span: The span to take; None takes the latest when the job runs.

    Raises:
        InputError: TFX or `kfp-pipeline-spec` is not installed as it must be, no image is named, or the
            settings ask for what Kubeflow cannot run.
    """
    require_tfx()
    require_kubeflow()
    if settings.window > 1 or settings.data_rules.drift:
        raise InputError(
            "window and drift rules need this library's own driver and resolver, which Kubeflow Pipelines "
            "cannot run: compile without them"
        )
    if not image:
        raise InputError("image: name a container image with this library and requirements-dev.txt")
    try:
        from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
    except TypeError as error:  # its protos were generated for an older protobuf
        raise InputError(f"kfp-pipeline-spec does not work here; {KUBEFLOW_SETUP} ({error})") from None

    from psad_tf.tfx_pipeline.pipeline import create_pipeline

    config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image=image)
    with replaced_file(output) as temporary:
        runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
            config=config,
            output_dir=os.path.dirname(temporary),
            output_filename=os.path.basename(temporary),
        )
        runner.run(create_pipeline(settings, span), write_out=True)
