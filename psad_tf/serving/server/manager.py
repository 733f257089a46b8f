"""Which versions are served: configurations, watching of base paths, hot swap.

Versions are loaded beside those that serve, take over when all that a change needs is there, and only then
are the old ones let go, after their last request. A change that cannot be made whole changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from psad_tf.serving.server.loader import LoadedVersion, LoadError
from psad_tf.serving.server.model_config import (
    aspired_versions,
    check_config,
    check_labels,
    versions_on_disk,
)
from psad_tf.serving.server.status import ServingError, invalid_argument, not_found
from psad_tf.serving.version_files import Fingerprint, fingerprint, has_files_list

_log = logging.getLogger(__name__)
_State = get_model_status_pb2.ModelVersionStatus.State

LOADING, AVAILABLE = _State.Value("LOADING"), _State.Value("AVAILABLE")
UNLOADING, END = _State.Value("UNLOADING"), _State.Value("END")

_SETTLE_SECONDS = 0.2

Load = Callable[[str, int, str], LoadedVersion]
Versions = Mapping[int, LoadedVersion]


@dataclasses.dataclass(frozen=True)
class VersionState:
    """Where a version stands.

    Attributes:
        state: A `ModelVersionStatus.State`.
        code: gRPC code number of what went wrong, 0 for nothing.
        error: What went wrong, one line without paths.
    """

    state: int
    code: int = 0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class _Serving:
    """What requests see of one model; replaced whole, never changed."""

    versions: Versions
    labels: Mapping[str, int]


class ModelManager:
    """Keeps the configured versions of the configured models loaded.

    Args:
        load: Loads a version; raises `LoadError`.
        drain_seconds: Longest wait for a version's last requests before it is dropped.
        labels_for_unavailable: Whether a label not yet assigned may name a version that is not loaded.
    """

    def __init__(
        self, load: Load, *, drain_seconds: float = 10.0, labels_for_unavailable: bool = False
    ) -> None:
        self._load = load
        self._drain_seconds = drain_seconds
        self._labels_for_unavailable = labels_for_unavailable
        self.config: Any = None  # what is applied
        self._serving: Mapping[str, _Serving] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._seen: dict[str, Fingerprint] = {}  # by path, as everything about files
        self._failed: dict[str, tuple[Fingerprint, LoadError]] = {}
        self._work = threading.RLock()  # one change at a time; requests never wait for it
        self._changed = threading.Condition()
        self._stop = threading.Event()

    # --- requests --------------------------------------------------------------------------------

    def lookup(self, spec: Any) -> LoadedVersion:
        """The version that a ModelSpec asks for.

        Raises:
            ServingError: The model, version or label is unknown, or nothing is loaded yet.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if self.config is None:
            raise ServingError(grpc.StatusCode.UNAVAILABLE, "the models are being loaded")
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
            version = max(serving.versions)
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
        """Names of the models that are served."""
        return tuple(self._serving)

    # --- changes ---------------------------------------------------------------------------------

    def configure(self, config: Any) -> None:
        """Serves what a `ModelServerConfig` lists, in place of what was served before.

        Loads everything first, then switches at once, or changes nothing.

        Raises:
            ServingError: The configuration is impossible, a version that it names is there and cannot be
                loaded, or a model has no version that can be loaded.
        """
        check_config(config)
        models = {model.name: model for model in config.model_config_list.config}
        with self._work:
            if self._look(models):  # something may be half copied: look again
                self._stop.wait(_SETTLE_SECONDS)
                self._look(models)
            prepared: dict[str, Versions] = {}
            try:
                for name, model in models.items():
                    prepared[name] = self._prepare(model)
                    self._check(model, prepared[name])
            except BaseException:
                self._discard(prepared)
                raise
            serving = {
                name: _Serving(prepared[name], dict(model.version_labels)) for name, model in models.items()
            }
            self._switch(serving, config)

    def poll(self) -> None:
        """One look at every base path."""
        with self._work:
            if self.config is None:
                return
            for model in self.config.model_config_list.config:
                serving = _Serving(self._prepare(model), dict(model.version_labels))
                self._switch({**self._serving, model.name: serving}, self.config)

    def _look(self, models: Mapping[str, Any]) -> bool:
        """Notes what the files of every version are; true where one may be half copied."""
        paths = [path for model in models.values() for path in versions_on_disk(model.base_path).values()]
        return not all([self._settled(path) for path in paths])

    def _settled(self, path: str) -> bool:
        """Whether a version's files are as at the last look, or are listed, so that loading verifies them."""
        files = fingerprint(path)
        before, self._seen[path] = self._seen.get(path), files
        return files == before or has_files_list(path)

    def _prepare(self, model: Any) -> Versions:
        """The versions that a model is to have: those that serve already and stay, the others loaded."""
        found = versions_on_disk(model.base_path)
        current = self._current(model.name)
        ready = {
            version: loaded
            for version, loaded in current.items()
            if loaded.path == found.get(version) and not loaded.files_changed
        }
        usable = dict(found)
        while True:  # a version that cannot be loaded is passed over for the next older one
            wanted = aspired_versions(usable, model.model_version_policy)
            missing = sorted(wanted - ready.keys(), reverse=True)
            if not missing:
                break
            for version in missing:
                loaded = self._try(model.name, version, found[version])
                if loaded is None:
                    del usable[version]
                else:
                    ready[version] = loaded
        if not wanted:  # an empty or vanished base path, or a damaged one, takes nothing from those who ask
            wanted = {version for version, loaded in current.items() if _is_under(loaded, model)}
            ready = dict(current)
        return {version: ready[version] for version in wanted}

    def _try(self, name: str, version: int, path: str) -> LoadedVersion | None:
        """Loads a version unless its files are still changing, or are those that failed before."""
        serves = self._current(name).get(version)
        files = fingerprint(path)
        if self._stop.is_set() or (path in self._failed and self._failed[path][0] == files):
            return None
        if not self._settled(path):
            return serves if serves is not None and serves.path == path else None
        if serves is None:
            self._set(name, version, VersionState(LOADING))
        try:
            loaded = self._load(name, version, path)
        except LoadError as error:
            self._failed[path] = files, error
            _log.error("version %d of model %s is not served: %s", version, name, error.detail)
            if serves is None:
                self._set(name, version, _ended(error))
            return None
        self._failed.pop(path, None)
        return loaded

    def _check(self, model: Any, versions: Versions) -> None:
        """Refuses a configuration whose versions or labels are not to be had.

        At the start, one of the versions is enough: a restart is no time to be strict.
        """
        found = versions_on_disk(model.base_path)
        policy = model.model_version_policy
        named = set(policy.specific.versions) & found.keys() if self.config is not None else set()
        if not versions or not named <= versions.keys():
            message, detail = self._why(model, {v: found[v] for v in found if v not in versions})
            start = f"Some models did not become available: {{{model.name}: "
            raise ServingError(grpc.StatusCode.UNKNOWN, f"{start}{message}}}", f"{start}{detail}}}")
        serving = self._serving.get(model.name)
        check_labels(
            model,
            serving.labels if serving else {},
            self._current(model.name).keys(),
            versions.keys(),
            self._labels_for_unavailable,
        )

    def _why(self, model: Any, missing: Mapping[int, str]) -> tuple[str, str]:
        """Why versions are not loaded: for callers, and with paths for the log."""
        causes, details = [], []
        for version in sorted(aspired_versions(missing, model.model_version_policy)):
            path = missing[version]
            error = self._failed[path][1] if path in self._failed else None
            changing = "its files are still changing"
            causes.append(f"version {version}: {error or changing}")
            details.append(f"version {version}: {error.detail if error else f'{path}: {changing}'}")
        nothing = "no versions found under its base path"
        return ", ".join(causes) or nothing, ", ".join(details) or f"{nothing} {model.base_path}"

    def _current(self, name: str) -> Versions:
        serving = self._serving.get(name)
        return serving.versions if serving else {}

    def _discard(self, prepared: Mapping[str, Versions]) -> None:
        """Lets go what was loaded for a configuration that is not taken over."""
        for name, versions in prepared.items():
            for version, loaded in versions.items():
                if self._current(name).get(version) is not loaded:
                    loaded.retire(0)
                    if version not in self._current(name):
                        self._set(name, version, VersionState(END))

    def _switch(self, serving: Mapping[str, _Serving], config: Any) -> None:
        """Makes this what requests see, all at once, then lets the versions that left go."""
        with self._changed:
            stopped = self._stop.is_set()
            before = serving if stopped else self._serving
            if not stopped:
                self._serving, self.config = serving, config
        kept = {id(loaded) for each in self._serving.values() for loaded in each.versions.values()}
        for name, each in self._serving.items():
            for version in each.versions:
                if self.states(name).get(version) != VersionState(AVAILABLE):
                    self._set(name, version, VersionState(AVAILABLE))
                    _log.info("version %d of model %s is available", version, name)
        for name, each in before.items():
            for version, loaded in each.versions.items():
                if id(loaded) not in kept:
                    self._let_go(name, version, loaded)

    def _let_go(self, name: str, version: int, loaded: LoadedVersion) -> None:
        replaced = version in self._current(name)
        if not replaced:
            self._set(name, version, VersionState(UNLOADING))
        if not loaded.retire(self._drain_seconds):
            _log.warning("version %d of model %s still has requests", version, name)
        if not replaced:
            failed = self._failed.get(loaded.path)
            self._set(name, version, _ended(failed[1]) if failed else VersionState(END))

    def _set(self, name: str, version: int, state: VersionState) -> None:
        with self._changed:
            self._states.setdefault(name, {})[version] = state
            self._changed.notify_all()

    # --- life cycle ------------------------------------------------------------------------------

    def repeat(self, seconds: float, look: Callable[[], None]) -> threading.Thread:
        """Calls `look` every so many seconds, in a thread of its own, until `stop`."""

        def watch() -> None:
            while not self._stop.wait(seconds):
                try:
                    look()
                except Exception:
                    _log.exception("looking for changes failed; what is loaded keeps serving")

        thread = threading.Thread(target=watch, name="psad-poll", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """From now on nothing new is loaded or switched to; waits for nothing."""
        self._stop.set()

    def unload(self) -> None:
        """Lets every version go, without waiting for requests that still run."""
        self.stop()
        with self._changed:
            left, self._serving = self._serving, {}
        for serving in left.values():
            for loaded in serving.versions.values():
                loaded.retire(0)

    def wait_until(self, condition: Callable[[ModelManager], bool], seconds: float) -> bool:
        """Waits until a condition on the states holds; false when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), seconds)


def _ended(error: LoadError) -> VersionState:
    return VersionState(END, grpc.StatusCode.UNKNOWN.value[0], str(error))


def _is_under(loaded: LoadedVersion, model: Any) -> bool:
    return loaded.path.startswith(f"{model.base_path.rstrip('/')}/")
