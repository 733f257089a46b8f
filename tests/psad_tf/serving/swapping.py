"""Servers of a base path that a test may change, and what they answer."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from google.protobuf import text_format

from psad_tf.serving.server import EmbeddedServer, ServerSettings, single_model_config
from psad_tf.serving.version_files import write_files_list
from tests.psad_tf.serving.tiny_models import scale_request

QUIET = ServerSettings(file_system_poll_wait_seconds=0, drain_seconds=5.0)


def add_version(base: pathlib.Path, models: pathlib.Path, version: int) -> None:
    """A new version, whole at once."""
    shutil.copytree(models / "2", base / "copying")
    write_files_list(str(base / "copying"))
    (base / "copying").rename(base / str(version))


def answering(server: EmbeddedServer) -> int:
    return server.service.predict(scale_request()).model_spec.version.value


def states(server: EmbeddedServer) -> dict[int, int]:
    return {version: state.state for version, state in server.manager.states("scale").items()}


def config(base: pathlib.Path, policy: str, labels: dict[str, int] | None = None) -> Any:
    made = single_model_config("scale", base)
    model = made.model_config_list.config[0]
    text_format.Parse(policy, model.model_version_policy)
    for label, version in (labels or {}).items():
        model.version_labels[label] = version
    return made


def factor(server: EmbeddedServer) -> float:
    """By what the model that answers multiplies."""
    return server.service.predict(scale_request([[1.0]])).outputs["y"].float_val[0]
