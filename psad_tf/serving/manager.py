"""Which versions are served: policies, labels, watching of base paths, hot swap.

A version is loaded beside the one that serves, takes over when it is ready, and only then is the old
one let go, after its last request. A version that cannot be loaded changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf import message
from tensorflow_serving.apis import get_model_status_pb2

from psad_tf.serving.loader import Fingerprint, LoadedVersion, LoadError, fingerprint, has_files_list
from psad_tf.serving.status import (
    ServingError,
    failed_precondition,
    invalid_argument,
    not_found,
    safe_line,
)

_log = logging.getLogger(__name__)
_State = get_model_status_pb2.ModelVersionStatus.State

START, LOADING, AVAILABLE = _State.Value("START"), _State.Value("LOADING"), _State.Value("AVAILABLE")
UNLOADING, END = _State.Value("UNLOADING"), _State.Value("END")

_SETTLE_SECONDS = 0.2

Load = Callable[[str, int, str], LoadedVersion]


@dataclasses.dataclass(frozen=True)
class VersionState:
    """Where a version stands.

    Attributes:
        state: A `ModelVersionStatus.State`.
        code: gRPC code number of what went wrong, 0 for nothing.
        error: What went wrong, one line.
    """

    state: int
    code: int = 0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class _Serving:
    """What requests see of one model; replaced whole, never changed."""

    versions: Mapping[int, LoadedVersion]
    labels: Mapping[str, int]

    @property
    def latest(self) -> int:
        return max(self.versions)


class ModelManager:
    """Keeps the configured versions of the configured models loaded.

    Args:
        load: Loads a version; raises `LoadError`.
        drain_seconds: Longest wait for a version's last requests before it is dropped.
        labels_for_unavailable: Whether a label may name a version that is not loaded.
    """

    def __init__(
        self, load: Load, *, drain_seconds: float = 10.0, labels_for_unavailable: bool = False
    ) -> None:
        self._load = load
        self._drain_seconds = drain_seconds
        self._labels_for_unavailable = labels_for_unavailable
        self._configs: dict[str, Any] = {}
        self._serving: dict[str, _Serving] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._seen: dict[tuple[str, int], Fingerprint] = {}
        self._failed: dict[tuple[str, int], Fingerprint] = {}
        self._work = threading.RLock()  # one change at a time; requests never wait for it
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._watchers: list[threading.Thread] = []
        self._unsettled = False

    # --- requests --------------------------------------------------------------------------------

    def lookup(self, spec: Any) -> LoadedVersion:
        """The version that a ModelSpec asks for.

        Raises:
            ServingError: The model, version or label is unknown.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        name = spec.name[:256]
        serving = self._serving.get(name)
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            version = serving.labels.get(spec.version_label) if serving else None
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label[:64]}")
        elif choice == "version":
            version = spec.version.value
        elif serving and serving.versions:
            version = serving.latest
        else:
            raise not_found(f"Servable not found for request: Latest({name})")
        loaded = serving.versions.get(version) if serving else None
        if loaded is None:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return loaded

    @contextlib.contextmanager
    def using(self, spec: Any) -> Iterator[LoadedVersion]:
        """`lookup`, and the version stays loaded until the block ends."""
        loaded = self.lookup(spec)
        while not loaded.acquire():  # it left between the two steps; what replaces it is there by then
            loaded = self.lookup(spec)
        try:
            yield loaded
        finally:
            loaded.release()

    def states(self, name: str) -> dict[int, VersionState]:
        """Every version ever seen of a model, by number."""
        with self._changed:
            return dict(self._states.get(name, {}))

    def label_version(self, name: str, label: str) -> int | None:
        """The version that a label stands for."""
        serving = self._serving.get(name)
        return serving.labels.get(label) if serving else None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the configured models."""
        return tuple(self._configs)

    def available(self, name: str) -> bool:
        """Whether any version of a model is loaded."""
        serving = self._serving.get(name)
        return bool(serving and serving.versions)

    # --- configuration ---------------------------------------------------------------------------

    def configure(self, config: Any) -> None:
        """Serves what a `ModelServerConfig` lists, in place of what was served before.

        Returns when every model has a version loaded.

        Raises:
            ServingError: The configuration is impossible, or a model has no version that can be loaded.
        """
        _check_config(config)
        models = {model.name: model for model in config.model_config_list.config}
        with self._work:
            if self._configs:
                self._check_labels(models, self._labels_for_unavailable)
            before = self._configs
            self._configs = models
            for name in before.keys() - models.keys():
                self._publish(name, {}, {})
            self._unsettled = False
            for name in models:
                self._refresh(name)
            if self._unsettled:
                self._stop.wait(_SETTLE_SECONDS)
                for name in models:
                    self._refresh(name)
            missing = [name for name in models if not self.available(name)]
            self._check_labels(models, self._labels_for_unavailable)
            if missing:
                reasons = "; ".join(self._why(name) for name in missing)
                raise ServingError(
                    grpc.StatusCode.UNKNOWN, f"Some models did not become available: {{{reasons}}}"
                )

    def _why(self, name: str) -> str:
        errors = [f"version {v}: {s.error}" for v, s in sorted(self.states(name).items()) if s.error]
        return f"{name}: {', '.join(errors) or 'no versions found under its base path'}"

    def _check_labels(self, models: Mapping[str, Any], for_unavailable: bool) -> None:
        for name, model in models.items():
            serving = self._serving.get(name)
            for version in model.version_labels.values():
                if not for_unavailable and not (serving and version in serving.versions):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {name}, which is not "
                        "currently available for inference"
                    )

    # --- watching --------------------------------------------------------------------------------

    def repeat(self, seconds: float, look: Callable[[], None]) -> None:
        """Calls `look` every so many seconds, in a thread of its own, until `stop`."""
        thread = threading.Thread(target=self._repeat, args=(seconds, look), name="psad-poll", daemon=True)
        self._watchers.append(thread)
        thread.start()

    def _repeat(self, seconds: float, look: Callable[[], None]) -> None:
        while not self._stop.wait(seconds):
            try:
                look()
            except Exception:
                _log.exception("looking for changes failed; what is loaded keeps serving")

    def poll(self) -> None:
        """One look at every base path."""
        with self._work:
            for name in list(self._configs):
                self._refresh(name)

    def stop(self) -> None:
        """Ends the watching."""
        self._stop.set()
        for thread in self._watchers:
            thread.join()

    def unload(self) -> None:
        """Lets every version go, without waiting for requests that still run."""
        with self._work:
            left, self._serving = self._serving, {}
            for serving in left.values():
                for loaded in serving.versions.values():
                    loaded.retire(0)

    def wait_until(self, condition: Callable[[ModelManager], bool], seconds: float) -> bool:
        """Waits until a condition on the states holds; false when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), seconds)

    # --- changes ---------------------------------------------------------------------------------

    def _refresh(self, name: str) -> None:
        """Loads the versions that the policy wants and lets the others go."""
        model = self._configs[name]
        found = _versions(model.base_path)
        current = self._serving.get(name)
        versions = dict(current.versions) if current else {}
        labels = dict(model.version_labels)
        usable = dict(found)
        while True:  # a version that cannot be loaded is passed over for the next older one
            wanted = _aspired(usable, model.model_version_policy)
            failed = set()
            for version in sorted(wanted - versions.keys(), reverse=True):
                loaded = self._try(name, version, os.path.join(model.base_path, found[version]))
                if loaded is None:
                    failed.add(version)
                else:
                    versions[version] = loaded
                    self._publish(name, versions, labels)
            if not failed:
                break
            for version in failed:
                del usable[version]
        if wanted:
            versions = {version: versions[version] for version in wanted}
        self._publish(name, versions, labels)

    def _try(self, name: str, version: int, path: str) -> LoadedVersion | None:
        key = (name, version)
        files = fingerprint(path)
        if self._failed.get(key) == files:
            return None
        changing = self._seen.get(key) != files
        self._seen[key] = files
        if changing and not has_files_list(path):
            self._unsettled = True  # it may be half copied: taken when it has stopped changing
            return None
        self._set(name, version, VersionState(LOADING))
        try:
            loaded = self._load(name, version, path)
        except LoadError as error:
            self._failed[key] = files
            _log.error("version %d of model %s is not served: %s", version, name, error)
            reason = safe_line(str(error))
            self._set(name, version, VersionState(END, grpc.StatusCode.UNKNOWN.value[0], reason))
            return None
        self._failed.pop(key, None)
        return loaded

    def _publish(self, name: str, versions: Mapping[int, LoadedVersion], labels: Mapping[str, int]) -> None:
        """Makes a set of versions the one that requests see, then lets the left ones go."""
        before = self._serving.get(name)
        if before and dict(before.versions) == dict(versions) and dict(before.labels) == dict(labels):
            return
        self._serving = {**self._serving, name: _Serving(dict(versions), dict(labels))}
        for version in versions:
            if not before or version not in before.versions:
                self._set(name, version, VersionState(AVAILABLE))
                _log.info("version %d of model %s is available", version, name)
        for version, loaded in before.versions.items() if before else ():
            if version not in versions:
                self._set(name, version, VersionState(UNLOADING))
                if not loaded.retire(self._drain_seconds):
                    _log.warning("version %d of model %s still has requests", version, name)
                self._seen.pop((name, version), None)
                self._set(name, version, VersionState(END))

    def _set(self, name: str, version: int, state: VersionState) -> None:
        with self._changed:
            self._states.setdefault(name, {})[version] = state
            self._changed.notify_all()


def _versions(base_path: str) -> dict[int, str]:
    """Folder name by version number."""
    try:
        with os.scandir(base_path) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    except OSError:
        return {}
    return {int(name): name for name in names if int(name) < 2**63}


def _aspired(found: Mapping[int, str], policy: Any) -> set[int]:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return set(found)
    if choice == "specific":
        return set(policy.specific.versions) & found.keys()
    count = policy.latest.num_versions or 1
    return set(sorted(found, reverse=True)[:count])


def _check_config(config: message.Message) -> None:
    kind = config.WhichOneof("config")
    if kind != "model_config_list":
        raise invalid_argument(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
            "currently supported"
        )
    names = set()
    for model in config.model_config_list.config:  # type: ignore[attr-defined]
        if not model.name or not model.base_path:
            raise invalid_argument("a model needs a name and a base_path")
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
        if model.model_platform not in ("", "tensorflow"):
            raise invalid_argument(f"Model {model.name} requests unsupported platform {model.model_platform}")
        if not os.path.isabs(model.base_path):
            raise invalid_argument(f"Expected model {model.name} to have an absolute path")
