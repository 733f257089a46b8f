"""Whether the packages that the pipeline needs beyond the runtime lock are installed."""

from __future__ import annotations

import importlib.util

from psad_tf.errors import InputError

KUBEFLOW_SETUP = "docs/tfx.md says how to compile for Kubeflow Pipelines"


def require_tfx() -> None:
    """Refuses to go on without TFX, before anything slow is imported.

    Raises:
        InputError: TFX or ML Metadata is not installed.
    """
    for package in ("tfx", "ml_metadata"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"the package {package!r} is not installed: the pipeline needs requirements-dev.txt "
                "(uv pip install --no-deps -r requirements-dev.txt)"
            )


def require_kubeflow() -> None:
    """The same for the protos of Kubeflow Pipelines, which only compiling for Kubeflow needs.

    Raises:
        InputError: `kfp-pipeline-spec` is not installed.
    """
    if importlib.util.find_spec("kfp") is None or importlib.util.find_spec("kfp.pipeline_spec") is None:
        raise InputError(f"the package 'kfp-pipeline-spec' is not installed; {KUBEFLOW_SETUP}")
