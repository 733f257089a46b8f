"""From a pushed model back to the raw files, out of the metadata store."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from typing import Any

from psad_tf.errors import InputError
from psad_tf.tfx_pipeline.components.list_example_gen_executor import RAW_FILES
from psad_tf.tfx_pipeline.metadata import Store, plain_properties

# A baseline has a lineage of its own; it is named and not followed.
_NOT_FOLLOWED = ("baseline_model",)
_SHOWN = {
    "PushedModel": ("pushed_version", "pushed_destination"),
    "Examples": ("span", "version", "lists", "input_fingerprint"),
    "ModelBlessing": ("blessed", "baseline_model_id"),
    "InfraBlessing": ("blessed", "requests", "p50_ms"),
}


@dataclasses.dataclass(frozen=True)
class LineageNode:
    """An artifact, what made it and of what.

    Attributes:
        key: Under which the execution below read it; "" at the top.
        artifact_id: In the metadata store.
        type: `PushedModel`, `Model`, `Examples` ...
        uri: Where it is.
        facts: Its properties that say something to a reader.
        component: What made it.
        execution_id: In the metadata store.
        finished: When, ISO 8601 in UTC.
        raw_files: Path, bytes and time of change of each raw file, at ListExampleGen's outputs.
        inputs: Of what it was made; an artifact that is shown elsewhere has none.
    """

    key: str
    artifact_id: int
    type: str
    uri: str
    facts: dict[str, Any]
    component: str = ""
    execution_id: int = 0
    finished: str = ""
    raw_files: tuple[dict[str, Any], ...] = ()
    inputs: tuple[LineageNode, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return dataclasses.asdict(self)


def pushed_lineage(metadata_path: str | os.PathLike[str], model: str | None = None) -> LineageNode:
    """The lineage of a pushed model.

    Args:
        metadata_path: The SQLite file.
        model: The version's folder, or its number; None takes the latest pushed.

    Raises:
        InputError: The store is missing, or knows of no such model.
    """
    store = Store(metadata_path)
    pushed = [
        each for each in store.artifacts("PushedModel") if each.custom_properties["pushed"].int_value == 1
    ]
    if not pushed:
        raise InputError(f"{os.fspath(metadata_path)}: no model has been pushed")
    if model is None:
        return _trace(store, pushed[-1], "", set())
    wanted = os.path.abspath(model)
    for artifact in reversed(pushed):
        facts = plain_properties(artifact)
        if model == facts.get("pushed_version") or wanted == facts.get("pushed_destination"):
            return _trace(store, artifact, "", set())
    versions = ", ".join(plain_properties(each).get("pushed_version", "?") for each in pushed)
    raise InputError(f"{os.fspath(metadata_path)}: {model} was not pushed (pushed: {versions})")


def _trace(store: Store, artifact: Any, key: str, seen: set[int]) -> LineageNode:
    kind, properties = store.type_of(artifact), plain_properties(artifact)
    facts = {name: properties[name] for name in _SHOWN.get(kind, ()) if name in properties}
    node = LineageNode(key, artifact.id, kind, artifact.uri, facts)
    if artifact.id in seen or key in _NOT_FOLLOWED:
        return node
    seen.add(artifact.id)
    execution = store.producer(artifact)
    if execution is None:
        return node
    finished = datetime.datetime.fromtimestamp(execution.last_update_time_since_epoch / 1e3, datetime.UTC)
    return dataclasses.replace(
        node,
        component=store.component_of(execution),
        execution_id=execution.id,
        finished=finished.isoformat(timespec="seconds"),
        raw_files=tuple(json.loads(properties.get(RAW_FILES, "[]"))),
        inputs=tuple(_trace(store, each, name, seen) for name, each in store.inputs(execution)),
    )


def lineage_text(node: LineageNode, indent: str = "") -> str:
    """The lineage as an indented tree, a line an artifact or raw file."""
    facts = ", ".join(f"{name} {value}" for name, value in node.facts.items())
    label = f"{node.key}: " if node.key else ""
    lines = [f"{indent}{label}{node.type} {node.artifact_id}{f' ({facts})' if facts else ''}"]
    if node.component:
        lines.append(f"{indent}  {node.uri}")
        lines.append(f"{indent}  made by {node.component} (execution {node.execution_id}, {node.finished})")
    else:
        lines[0] += " (shown elsewhere)" if node.key not in _NOT_FOLLOWED else f" {node.uri}"
    for file in node.raw_files:
        lines.append(f"{indent}    raw file {file['path']} ({file['bytes']:,} bytes)")
    lines += [lineage_text(each, indent + "    ") for each in node.inputs]
    return "\n".join(lines)
