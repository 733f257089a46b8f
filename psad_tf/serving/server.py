"""The embedded server: serves SavedModel folders over gRPC and REST as TensorFlow Serving does."""

from __future__ import annotations

import logging
import os
from typing import Any

from psad_tf.errors import InputError
from psad_tf.serving.grpc_server import GrpcServer
from psad_tf.serving.loader import LoadedVersion
from psad_tf.serving.manager import ModelManager
from psad_tf.serving.metrics import Metrics
from psad_tf.serving.rest_server import RestServer
from psad_tf.serving.service import ServingService
from psad_tf.serving.settings import ServerSettings, read_model_config, single_model_config
from psad_tf.serving.status import ServingError

_log = logging.getLogger(__name__)
_DEFAULTS = ServerSettings()


class EmbeddedServer:
    """A server for development, tests and small installations, in this process.

        with EmbeddedServer.of_model("psad", "models/psad") as server:
            client = RerankClient(f"127.0.0.1:{server.port}")

    Args:
        config: A `ModelServerConfig`, or the path of a text file with one.
        settings: How it runs.

    Attributes:
        port: The gRPC port, once started.
        rest_port: The REST port, once started; None without REST.
    """

    def __init__(self, config: Any, settings: ServerSettings = _DEFAULTS) -> None:
        self._config_file = os.fspath(config) if isinstance(config, str | os.PathLike) else None
        self._config = config if self._config_file is None else read_model_config(self._config_file)
        self.settings = settings
        self.metrics = Metrics()

        def load(model: str, version: int, path: str) -> LoadedVersion:
            return LoadedVersion(
                model,
                version,
                path,
                batching=settings.batching,
                warmup=settings.enable_model_warmup,
            )

        self.manager = ModelManager(
            load,
            drain_seconds=settings.drain_seconds,
            labels_for_unavailable=settings.allow_version_labels_for_unavailable_models,
        )
        self.service = ServingService(self.manager, self.metrics)
        self.port = 0
        self.rest_port: int | None = None
        self._grpc: GrpcServer | None = None
        self._rest: RestServer | None = None

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
        """Loads the models, then starts to answer.

        Raises:
            InputError: A model cannot be loaded, or a port cannot be listened on.
        """
        try:
            self.manager.configure(self._config)
        except ServingError as error:
            self.manager.unload()
            raise InputError(error.message) from None
        self._grpc = GrpcServer(self.service, self.settings)
        self.port = self._grpc.port
        try:
            if self.settings.rest_api_port is not None:
                self._rest = RestServer(self.service, self.settings)
                self.rest_port = self._rest.port
                self._rest.start()
        except InputError:
            self._grpc.stop(0)
            raise
        self._grpc.start()
        if self.settings.file_system_poll_wait_seconds > 0:
            self.manager.repeat(self.settings.file_system_poll_wait_seconds, self.manager.poll)
        if self._config_file is not None and self.settings.model_config_file_poll_wait_seconds > 0:
            self.manager.repeat(self.settings.model_config_file_poll_wait_seconds, self.reload_config_file)
        return self

    def reload_config_file(self) -> None:
        """Reads the configuration file again and serves what it says now, if that has changed.

        A file that cannot be read, or that says something impossible, is logged and changes nothing.
        """
        assert self._config_file is not None
        try:
            config = read_model_config(self._config_file)
            if config != self._config:
                self.manager.configure(config)
                self._config = config
        except (InputError, ServingError) as error:
            _log.error("%s was not taken over: %s", self._config_file, error)

    def stop(self, grace: float | None = None) -> None:
        """Drains and ends: health says NOT_SERVING, new requests are refused, running ones finish.

        Args:
            grace: Seconds that running requests get; None for the settings' `drain_seconds`.
        """
        grace = self.settings.drain_seconds if grace is None else grace
        self.manager.stop()
        if self._grpc is not None:
            self._grpc.stop(grace)
        if self._rest is not None:
            self._rest.stop(grace)
        self.manager.unload()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(1.0)
