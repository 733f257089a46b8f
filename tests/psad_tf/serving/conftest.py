"""A model of two versions and a server of it, shared; tests that change versions make their own."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.export.conftest import exported, tiny_lists, tiny_run  # noqa: F401


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Base path of the model `scale` with versions 1 and 2."""
    from tests.psad_tf.serving.tiny_models import write_model

    base = tmp_path_factory.mktemp("models") / "scale"
    base.mkdir()
    write_model(base, 1)
    write_model(base, 2)
    return base


@pytest.fixture(scope="session")
def lists_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Base path of the model `lists` with version 1."""
    from tests.psad_tf.serving.tiny_models import write_lists_model

    base = tmp_path_factory.mktemp("models") / "lists"
    base.mkdir()
    write_lists_model(base)
    return base


@pytest.fixture(scope="module")
def server(models: pathlib.Path) -> Iterator[Any]:
    """A server of both versions, labelled stable and canary."""
    from psad_tf.serving.server import EmbeddedServer, ServerSettings, single_model_config

    config = single_model_config("scale", models)
    model = config.model_config_list.config[0]
    model.model_version_policy.all.SetInParent()
    model.version_labels["stable"] = 1
    model.version_labels["canary"] = 2
    settings = ServerSettings(max_message_bytes=2**20, file_system_poll_wait_seconds=0, metrics_port=0)
    with EmbeddedServer(config, settings) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    """PredictionService on it."""
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_stub(channel: grpc.Channel) -> Any:
    """ModelService on it."""
    from tensorflow_serving.apis import model_service_pb2_grpc

    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="module")
def reranker_server(exported: pathlib.Path) -> Iterator[Any]:  # noqa: F811
    """A server of the exported reranker, named psad."""
    from psad_tf.serving.server import EmbeddedServer, ServerSettings

    settings = ServerSettings(file_system_poll_wait_seconds=0)
    with EmbeddedServer.of_model("psad", exported.parent, settings) as running:
        yield running


@pytest.fixture
def base(tmp_path: pathlib.Path, models: pathlib.Path) -> pathlib.Path:
    """A base path of its own with version 1."""
    folder = tmp_path / "scale"
    folder.mkdir()
    shutil.copytree(models / "1", folder / "1")
    return folder


@pytest.fixture
def running(base: pathlib.Path) -> Iterator[Any]:
    """A server of it that looks for new versions when told to."""
    from psad_tf.serving.server import EmbeddedServer
    from tests.psad_tf.serving.swapping import QUIET

    with EmbeddedServer.of_model("scale", base, QUIET) as server:
        yield server
