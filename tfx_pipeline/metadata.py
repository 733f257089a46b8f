"""Reading the ML Metadata store: runs, executions, artifacts and how they follow from each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from psad_tf.errors import InputError

_OUTPUTS = (mlmd.Event.OUTPUT, mlmd.Event.DECLARED_OUTPUT)
_INPUTS = (mlmd.Event.INPUT, mlmd.Event.DECLARED_INPUT)
_STATES = {
    mlmd.Execution.COMPLETE: "complete",
    mlmd.Execution.CACHED: "cached",
    mlmd.Execution.FAILED: "failed",
}


class Store:
    """A metadata store, opened for reading.

    Args:
        path: The SQLite file.

    Raises:
        InputError: There is no such file, or it is no metadata store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise InputError(f"{self.path}: no such metadata store (a pipeline's run makes one)")
        config = mlmd.ConnectionConfig()
        config.sqlite.filename_uri = self.path
        config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READONLY
        try:
            self._store = metadata_store.MetadataStore(config)
            self._execution_types = {each.id: each.name for each in self._store.get_execution_types()}
            self._artifact_types = {each.id: each.name for each in self._store.get_artifact_types()}
        except Exception as error:  # MLMD's own kinds, by the state of the file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.path}: is not a metadata store ({reason[:200]})") from None

    def artifacts(self, type_name: str) -> list[Any]:
        """Every artifact of a type, oldest first."""
        if type_name not in self._artifact_types.values():
            return []
        return sorted(self._store.get_artifacts_by_type(type_name), key=lambda each: each.id)

    def type_of(self, artifact: Any) -> str:
        """The name of an artifact's type."""
        return self._artifact_types[artifact.type_id]

    def component_of(self, execution: Any) -> str:
        """The component that an execution is of."""
        return self._execution_types[execution.type_id].rsplit(".", 1)[-1]

    def latest_run(self, pipeline: str) -> Any:
        """The context of the latest run of a pipeline.

        Raises:
            InputError: There is none.
        """
        runs = [
            each
            for each in self._store.get_contexts_by_type("pipeline_run")
            if any(parent.name == pipeline for parent in self._store.get_parent_contexts_by_context(each.id))
        ]
        if not runs:
            raise InputError(f"{self.path}: holds no run of the pipeline {pipeline!r}")
        return max(runs, key=lambda each: each.id)

    def states(self, run: Any) -> dict[str, str]:
        """State by component of a run, in the order in which they ran."""
        executions = sorted(self._store.get_executions_by_context(run.id), key=lambda each: each.id)
        return {
            self.component_of(each): _STATES.get(each.last_known_state, "unfinished") for each in executions
        }

    def output(self, run: Any, component: str, key: str) -> Any:
        """The artifact that a component of a run gave out under a key, made in it or taken from the cache.

        Raises:
            InputError: There is none.
        """
        executions = [
            each
            for each in self._store.get_executions_by_context(run.id)
            if self.component_of(each) == component
        ]
        for artifact, name in self._events(executions, _OUTPUTS):
            if name == key:
                return artifact
        raise InputError(f"{self.path}: run {run.name}: {component} has no output {key!r}")

    def producer(self, artifact: Any) -> Any | None:
        """The execution that made an artifact; those that took it from the cache are passed over."""
        events = self._store.get_events_by_artifact_ids([artifact.id])
        ids = [each.execution_id for each in events if each.type in _OUTPUTS]
        executions = sorted(self._store.get_executions_by_id(ids), key=lambda each: each.id)
        made = [each for each in executions if each.last_known_state == mlmd.Execution.COMPLETE]
        return (made or executions or [None])[0]

    def inputs(self, execution: Any) -> list[tuple[str, Any]]:
        """The artifacts that an execution read, by key."""
        return [(name, artifact) for artifact, name in self._events([execution], _INPUTS)]

    def _events(self, executions: Iterable[Any], kinds: tuple[int, ...]) -> list[tuple[Any, str]]:
        ids = [each.id for each in executions]
        events = [each for each in self._store.get_events_by_execution_ids(ids) if each.type in kinds]
        found = {each.id: each for each in self._store.get_artifacts_by_id([e.artifact_id for e in events])}
        return [
            (found[each.artifact_id], next((step.key for step in each.path.steps if step.key), ""))
            for each in events
        ]


def plain_properties(message: Any) -> dict[str, Any]:
    """Properties and custom properties of an artifact or execution, as Python values."""
    values: dict[str, Any] = {}
    for properties in (message.properties, message.custom_properties):
        for name, value in properties.items():
            kind = value.WhichOneof("value")
            if kind is not None:
                values[name] = getattr(value, kind)
    return values
