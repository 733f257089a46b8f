"""Loads one version of a model: verifies its files, restores it, replays its warm-up records."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from psad_tf.serving.settings import Batching
from psad_tf.serving.signature import Signature, new_session
from psad_tf.serving.status import ServingError, failed_precondition

FILES_LIST = os.path.join("assets.extra", "files.json")
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
DEFAULT_SIGNATURE = "serving_default"
MOST_WARMUP_RECORDS = 1000  # TensorFlow Serving replays no more

Fingerprint = tuple[tuple[str, int, int], ...]


class LoadError(Exception):
    """A version that cannot be served; the message is one line."""


class LoadedVersion:
    """A version in memory, ready to answer.

    Args:
        model: Name of the model.
        version: Its number.
        path: Its folder.
        batching: How requests are batched.
        warmup: Whether to replay the warm-up records.

    Raises:
        LoadError: The folder holds no whole SavedModel, or a warm-up request failed.
    """

    def __init__(
        self,
        model: str,
        version: int,
        path: str,
        *,
        batching: Batching | None = None,
        warmup: bool = True,
    ) -> None:
        self.model = model
        self.version = version
        self._in_flight = 0
        self._retired = False
        self._changed = threading.Condition()
        self.signatures: dict[str, Signature] = {}
        self._session = new_session()
        self._model: Any = None  # its variables and tables live as long as the session
        try:
            self._load(path, batching, warmup)
        except LoadError:
            self._close()
            raise

    def _load(self, path: str, batching: Batching | None, warmup: bool) -> None:
        try:
            verify_files(path)
            self.definitions = _signature_definitions(path)
            building = threading.Lock()
            with self._session.graph.as_default(), self._session.as_default():
                self._model = tf.saved_model.load(path)
                self._session.run(
                    [tf.compat.v1.global_variables_initializer(), tf.compat.v1.tables_initializer()]
                )
                self.signatures = {
                    name: Signature(name, function, self.definitions[name], self._session, building, batching)
                    for name, function in self._model.signatures.items()
                }
            if warmup:
                self._warm_up(os.path.join(path, WARMUP_FILE))
        except LoadError:
            raise
        except ServingError as error:
            raise LoadError(f"warm-up failed: {error.message}") from None
        except Exception as error:  # TensorFlow raises many kinds on damaged files
            reason = str(error).strip().splitlines()
            raise LoadError(f"{type(error).__name__}: {reason[0][:300] if reason else ''}") from None

    def signature(self, name: str) -> Signature:
        """A signature by name, "" for the default one.

        Raises:
            ServingError: There is none of that name.
        """
        name = name or DEFAULT_SIGNATURE
        try:
            return self.signatures[name]
        except KeyError:
            raise failed_precondition(f'Serving signature key "{name[:64]}" not found.') from None

    def acquire(self) -> bool:
        """Keeps the version loaded until `release`; false when it has been retired."""
        with self._changed:
            if not self._retired:
                self._in_flight += 1
            return not self._retired

    def release(self) -> None:
        """Ends one `acquire`."""
        with self._changed:
            self._in_flight -= 1
            self._close_if_done()
            self._changed.notify_all()

    def retire(self, seconds: float) -> bool:
        """Lets no new request in; everything is given back when the last one is done.

        Returns:
            Whether that was within so many seconds.
        """
        with self._changed:
            self._retired = True
            self._close_if_done()
            return self._changed.wait_for(lambda: self._in_flight == 0, seconds)

    def _close_if_done(self) -> None:
        if self._retired and not self._in_flight:
            self._close()

    def _close(self) -> None:
        """Gives weights, tables, graphs and batching threads back."""
        self.signatures = {}
        self._model = None
        self._session.close()

    def _warm_up(self, path: str) -> None:
        if not os.path.isfile(path):
            return
        for record in tf.data.TFRecordDataset(path).take(MOST_WARMUP_RECORDS).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                continue
            request = log.predict_log.request
            self.signature(request.model_spec.signature_name).run(request.inputs, request.output_filter)


def _signature_definitions(path: str) -> dict[str, Any]:
    file_name = os.path.join(path, "saved_model.pb")
    if not os.path.isfile(file_name):
        raise LoadError("has no saved_model.pb")
    with open(file_name, "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    if not model.meta_graphs:
        raise LoadError("saved_model.pb holds no graph")
    definitions = model.meta_graphs[0].signature_def
    return {name: definitions[name] for name in definitions if not name.startswith("__")}


def fingerprint(path: str) -> Fingerprint:
    """Names, sizes and times of a version's files: changes while the folder is being copied."""
    return tuple(sorted(_files(path)))


def _files(path: str) -> Iterator[tuple[str, int, int]]:
    for folder, _, names in os.walk(path):
        for name in names:
            full = os.path.join(folder, name)
            try:
                facts = os.stat(full)
            except OSError:
                continue
            yield os.path.relpath(full, path), facts.st_size, facts.st_mtime_ns


def has_files_list(path: str) -> bool:
    """Whether the version lists its files, so that a half-copied one is known at once."""
    return os.path.isfile(os.path.join(path, FILES_LIST))


def verify_files(path: str) -> None:
    """Compares a version's files with `assets.extra/files.json`, where it has one.

    Raises:
        LoadError: A file is missing or differs.
    """
    if not has_files_list(path):
        return
    with open(os.path.join(path, FILES_LIST), encoding="utf-8") as file:
        try:
            listed = json.load(file)
        except ValueError:
            raise LoadError(f"{FILES_LIST} is not JSON") from None
    for name, facts in listed.items():
        full = os.path.join(path, name)
        if not os.path.isfile(full):
            raise LoadError(f"{name} is missing")
        if os.path.getsize(full) != facts["bytes"]:
            raise LoadError(f"{name} has {os.path.getsize(full)} bytes, {facts['bytes']} are listed")
        if file_sha256(full) != facts["sha256"]:
            raise LoadError(f"{name} is not the file that was exported (its hash differs)")


def write_files_list(path: str) -> None:
    """Writes `assets.extra/files.json`: size and SHA-256 of every file of a version."""
    listed = {
        name: {"bytes": size, "sha256": file_sha256(os.path.join(path, name))}
        for name, size, _ in fingerprint(path)
    }
    os.makedirs(os.path.dirname(os.path.join(path, FILES_LIST)), exist_ok=True)
    with open(os.path.join(path, FILES_LIST), "w", encoding="utf-8") as file:
        json.dump(listed, file, indent=1, sort_keys=True)
        file.write("\n")


def file_sha256(path: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
