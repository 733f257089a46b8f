"""The embedded server: serves SavedModel folders over gRPC as TensorFlow Serving does."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from psad_tf.errors import InputError
from psad_tf.serving.server.grpc_server import GrpcServer
from psad_tf.serving.server.loader import LoadedVersion
from psad_tf.serving.server.manager import ModelManager
from psad_tf.serving.server.metrics import Metrics, MetricsServer
from psad_tf.serving.server.service import ServingService
from psad_tf.serving.server.settings import ServerSettings, read_model_config, single_model_config
from psad_tf.serving.server.status import ServingError

_log = logging.getLogger(__name__)
_DEFAULTS = ServerSettings()


class EmbeddedServer:
    """A server for development, tests and small installations, in this process.

        with EmbeddedServer.of_model("psad", "models/psad") as server:
            client = RerankClient(server.address)

    Lists are answered faster where `TF_ENABLE_ONEDNN_OPTS` is 0 before TensorFlow is imported, as
    `psad serve` sets it.

    Args:
        config: A `ModelServerConfig`, or the path of a text file with one.
        settings: How it runs.

    Attributes:
        port: The gRPC port, once started.
        metrics_port: The port of `/metrics`, once started; None without it.
    """

    def __init__(self, config: Any, settings: ServerSettings = _DEFAULTS) -> None:
        self._config_file = os.fspath(config) if isinstance(config, str | os.PathLike) else None
        self._config = config if self._config_file is None else read_model_config(self._config_file)
        self._complaint = ""  # what was last said about the configuration file
        self.settings = settings
        self.metrics = Metrics()

        def load(model: str, version: int, path: str) -> LoadedVersion:
            return LoadedVersion(
                model, version, path, batching=settings.batching, warmup=settings.enable_model_warmup
            )

        self.manager = ModelManager(
            load,
            drain_seconds=settings.drain_seconds,
            labels_for_unavailable=settings.allow_version_labels_for_unavailable_models,
        )
        self.service = ServingService(self.manager, self.metrics)
        self.port = 0
        self.metrics_port: int | None = None
        self._grpc: GrpcServer | None = None
        self._metrics_server: MetricsServer | None = None
        self._watchers: list[threading.Thread] = []

    @classmethod
    def of_model(
        cls, name: str, base_path: str | os.PathLike[str], settings: ServerSettings = _DEFAULTS
    ) -> EmbeddedServer:
        """A server of one model, its newest version."""
        return cls(single_model_config(name, base_path), settings)

    @property
    def address(self) -> str:
        """host:port of the gRPC API."""
        return f"{self.settings.host}:{self.port}"

    def start(self) -> EmbeddedServer:
        """Opens the ports, loads the models, and says by health that it serves.

        Raises:
            InputError: A port cannot be listened on, or a model cannot be loaded.
        """
        settings = self.settings
        try:
            self._grpc = GrpcServer(self.service, settings)
            self.port = self._grpc.port
            if settings.metrics_port is not None:
                self._metrics_server = MetricsServer(
                    self.metrics, settings.metrics_host, settings.metrics_port
                )
                self.metrics_port = self._metrics_server.port
            self._grpc.start()
            self.manager.configure(self._config)
        except ServingError as error:
            self.stop(0)
            raise InputError(error.detail) from None
        except BaseException:
            self.stop(0)
            raise
        self._grpc.set_health(True)
        if settings.file_system_poll_wait_seconds > 0:
            self._watch(settings.file_system_poll_wait_seconds, self.manager.poll)
        if self._config_file is not None and settings.model_config_file_poll_wait_seconds > 0:
            self._watch(settings.model_config_file_poll_wait_seconds, self.reload_config_file)
        return self

    def _watch(self, seconds: float, look: Any) -> None:
        self._watchers.append(self.manager.repeat(seconds, look))

    def reload_config_file(self) -> None:
        """Reads the configuration file again and serves what it says now, if that is not what is served.

        A file that cannot be read, or that says something impossible, changes nothing; it is logged once, and
        tried again at the next look.
        """
        assert self._config_file is not None
        try:
            config = read_model_config(self._config_file)
            if config != self.manager.config:
                self.manager.configure(config)
            complaint = ""
        except InputError as error:
            complaint = str(error)
        except ServingError as error:
            complaint = error.detail
        if complaint and complaint != self._complaint:
            _log.error("%s was not taken over: %s", self._config_file, complaint)
        self._complaint = complaint

    def stop(self, grace: float | None = None) -> None:
        """Drains and ends: health says NOT_SERVING, new requests are refused, running ones finish.

        Args:
            grace: Seconds that running requests get; None for the settings' `drain_seconds`.
        """
        grace = self.settings.drain_seconds if grace is None else grace
        if self._grpc is not None:
            self._grpc.end_health()
        self.manager.stop()
        if self._grpc is not None:
            self._grpc.stop(grace)
        if self._metrics_server is not None:
            self._metrics_server.stop()
            self._metrics_server = None
        self.manager.unload()
        for watcher in self._watchers:
            watcher.join()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(1.0)
