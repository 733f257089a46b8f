"""A `ModelServerConfig`, read as TensorFlow Serving reads it: what is possible, which versions and labels."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from psad_tf.serving.server.status import failed_precondition, invalid_argument


def check_config(config: Any) -> None:
    """Refuses a configuration that cannot be served, whatever lies on disk.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
            "currently supported"
        )
    names = set()
    for model in config.model_config_list.config:
        if not model.name or not model.base_path:
            raise invalid_argument("a model needs a name and a base_path")
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if model.model_platform not in ("", "tensorflow"):
            raise invalid_argument(f"Model {model.name} requests unsupported platform {model.model_platform}")
        if not os.path.isabs(model.base_path):
            raise invalid_argument(f"Expected model {model.name} to have an absolute path")
        policy = model.model_version_policy
        if policy.WhichOneof("policy_choice") == "specific" and not policy.specific.versions:
            raise invalid_argument(f"Model {model.name}: the policy 'specific' names no version")


def check_labels(
    model: Any, labels: Mapping[str, int], before: Collection[int], after: Collection[int], allow: bool
) -> None:
    """Holds a model's labels to TensorFlow Serving's rule.

    A label that is assigned already moves only to a version that serves by now: whoever asks for it would
    otherwise be served by none. A label not yet assigned may also name a version that this configuration
    loads and, where that is allowed, any version.

    Args:
        model: Its `ModelConfig`.
        labels: Versions by label, so far.
        before: Versions that serve by now.
        after: Versions that serve with the new configuration.
        allow: `--allow_version_labels_for_unavailable_models`.

    Raises:
        ServingError: FAILED_PRECONDITION.
    """
    for label, version in model.version_labels.items():
        assigned = labels.get(label)
        available = version in after and (assigned is None or version in before)
        if not (available or (assigned in (None, version) and allow)):
            raise failed_precondition(
                f"Request to assign label to version {version} of model {model.name}, which is not "
                "currently available for inference"
            )


def versions_on_disk(base_path: str) -> dict[int, str]:
    """Folder by version number."""
    try:
        with os.scandir(base_path) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    except OSError:
        return {}
    return {int(name): os.path.join(base_path, name) for name in names if int(name) < 2**63}


def aspired_versions(found: Collection[int], policy: Any) -> set[int]:
    """Those of the versions found that a `ServableVersionPolicy` wants."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return set(found)
    if choice == "specific":
        return set(policy.specific.versions) & set(found)
    return set(sorted(found, reverse=True)[: policy.latest.num_versions or 1])
