"""Loads one version of a model: verifies its files, restores it, replays its warm-up records."""

from __future__ import annotations

import json
import os
import threading

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from psad_tf.serving.contract import (
    LIMITS_FILE,
    MAX_WARMUP_RECORDS,
    SERVING_DEFAULT,
    WARMUP_FILE,
    Limits,
)
from psad_tf.serving.server.saved_model import GraphError, load_graph
from psad_tf.serving.server.settings import Batching
from psad_tf.serving.server.signature import Signature
from psad_tf.serving.server.status import ServingError, failed_precondition, reason, safe_reason
from psad_tf.serving.version_files import FilesError, fingerprint, has_files_list, verify_files


class LoadError(Exception):
    """A version that cannot be served; one line without paths, and one for the log."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message


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
        self.path = path
        self._files = fingerprint(path)
        self._verified = has_files_list(path)
        self._in_flight = 0
        self._retired = False
        self._changed = threading.Condition()
        self.signatures: dict[str, Signature] = {}
        self._session: tf.compat.v1.Session | None = None
        try:
            self._load(path, batching, warmup)
        except LoadError:
            self._close()
            raise

    def _load(self, path: str, batching: Batching | None, warmup: bool) -> None:
        try:
            verify_files(path)
            self._session, self.definitions = load_graph(path)
            limits = _limits(path)
            self.signatures = {
                name: Signature(name, definition, self._session, limits, batching)
                for name, definition in self.definitions.items()
            }
            if warmup:
                self._warm_up(os.path.join(path, WARMUP_FILE))
        except (FilesError, GraphError) as error:
            raise LoadError(str(error), f"{path}: {error}") from None
        except ServingError as error:
            raise LoadError(f"warm-up failed: {error.message}", f"{path}: warm-up: {error.detail}") from None
        except Exception as error:  # TensorFlow raises many kinds on damaged files
            kind, said = type(error).__name__, getattr(error, "message", "") or str(error)
            raise LoadError(f"{kind}: {safe_reason(said)}", f"{path}: {kind}: {reason(said)}") from error

    @property
    def files_changed(self) -> bool:
        """Whether files changed after loading: without a list of them, a copy that stalled seemed whole."""
        return not self._verified and fingerprint(self.path) != self._files

    def signature(self, name: str) -> Signature:
        """A signature by name, "" for the default one.

        Raises:
            ServingError: There is none of that name.
        """
        name = name or SERVING_DEFAULT
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
        if self._session is not None:
            self._session.close()

    def _warm_up(self, path: str) -> None:
        if not os.path.isfile(path):
            return
        for record in tf.data.TFRecordDataset(path).take(MAX_WARMUP_RECORDS).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") == "predict_log":
                request = log.predict_log.request
                self.signature(request.model_spec.signature_name).warm_up(request.inputs)


def _limits(path: str) -> Limits | None:
    """What the exporter wrote about the model; None for a SavedModel of another kind."""
    try:
        with open(os.path.join(path, LIMITS_FILE), encoding="utf-8") as file:
            return Limits(**json.load(file))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise LoadError(f"{LIMITS_FILE} is damaged") from None
