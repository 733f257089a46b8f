"""Pusher: TFX's own, but a model that is served already is not pushed under another version.

The stock Pusher runs again whenever the Evaluator did, for its blessing is then a new artifact, and would
make TensorFlow Serving load an equal model.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from tfx import types
from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

ALREADY_SERVED = "already_served"


class Executor(executor.Executor):
    """Compares the candidate with the latest version in the push folder first."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes a blessed model; marks one that is served already as not pushed, with where it is."""
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination)
        served = latest_version(destination.filesystem.base_directory)
        if (
            served is not None
            and self.CheckBlessing(input_dict)
            and fingerprint(served) == fingerprint(self.GetModelPath(input_dict))
        ):
            pushed = artifact_utils.get_single_instance(
                output_dict[standard_component_specs.PUSHED_MODEL_KEY]
            )
            self._MarkNotPushed(pushed)
            pushed.set_string_custom_property(ALREADY_SERVED, served)
            return
        super().Do(input_dict, output_dict, exec_properties)


class Pusher(component.Pusher):
    """TFX's Pusher with the executor above."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)


def latest_version(folder: str) -> str | None:
    """The folder of the highest version that is whole, None where there is none."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    whole = [
        int(name)
        for name in names
        if name.isdecimal() and os.path.isfile(os.path.join(folder, name, "saved_model.pb"))
    ]
    return os.path.join(folder, str(max(whole))) if whole else None


def fingerprint(folder: str) -> str:
    """SHA-256 over names and bytes of all files of a folder."""
    digest = hashlib.sha256()
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            digest.update(os.path.relpath(path, folder).encode() + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
