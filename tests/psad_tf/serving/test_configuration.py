"""Configurations are taken over whole, or not at all."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from psad_tf.serving.server import EmbeddedServer, ServerSettings, single_model_config
from psad_tf.serving.server.manager import AVAILABLE, END
from psad_tf.serving.server.status import ServingError
from tests.psad_tf.serving.swapping import QUIET, add_version, answering, config, factor, states
from tests.psad_tf.serving.tiny_models import scale_request

ALLOWING = ServerSettings(file_system_poll_wait_seconds=0, allow_version_labels_for_unavailable_models=True)


def labelled(server: EmbeddedServer, label: str) -> int:
    request = scale_request()
    request.model_spec.version_label = label
    return server.service.predict(request).model_spec.version.value


def written(path: pathlib.Path, content: Any) -> pathlib.Path:
    path.write_text(text_format.MessageToString(content))
    return path


def test_a_typo_in_the_file_changes_nothing_and_the_good_file_is_taken_over_again(
    base: pathlib.Path, models: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_version(base, models, 2)
    file = written(tmp_path / "models.config", config(base, "specific { versions: 1 }"))
    with EmbeddedServer(file, QUIET) as server:
        for _ in range(2):
            written(file, config(tmp_path / "tpyo", "specific { versions: 1 }"))
            server.reload_config_file()
            assert answering(server) == 1 and states(server) == {1: AVAILABLE}
        said = f"no versions found under its base path {tmp_path}/tpyo"
        assert sum(said in record.message for record in caplog.records) == 1
        written(file, config(base, "specific { versions: 1 versions: 2 }"))
        server.reload_config_file()
        assert answering(server) == 2


def test_a_call_that_is_answered_by_an_error_is_not_applied(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    add_version(base, models, 2)
    wanted = config(base, "specific { versions: 2 }")
    wanted.model_config_list.config.add(name="other", base_path=str(models))
    wanted.model_config_list.config.add(name="absent", base_path=str(tmp_path / "absent"))
    with grpc.insecure_channel(running.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=wanted))
        assert "absent: no versions found" in raised.value.details()
        assert str(tmp_path) not in raised.value.details()
        assert answering(running) == 1 and running.manager.models == ("scale",)
        del wanted.model_config_list.config[2]
        stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=wanted))
    assert answering(running) == 2 and running.manager.models == ("scale", "other")


def test_another_base_path_is_loaded_under_the_same_version_number(
    running: EmbeddedServer, models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(models / "2", other / "1")
    running.manager.configure(config(other, ""))
    assert answering(running) == 1 and factor(running) == 2.0 and states(running) == {1: AVAILABLE}


def test_what_is_applied_is_what_the_file_is_compared_with(
    base: pathlib.Path, models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A configuration that came by a call ends when the watched file is looked at next."""
    add_version(base, models, 2)
    file = written(tmp_path / "models.config", config(base, "specific { versions: 1 }"))
    with EmbeddedServer(file, QUIET) as server:
        server.manager.configure(config(base, "specific { versions: 2 }"))
        assert answering(server) == 2
        server.reload_config_file()
        assert answering(server) == 1


def test_a_named_version_that_cannot_be_loaded_refuses_the_whole_configuration(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    for version in (2, 3):
        add_version(base, models, version)
    (base / "3" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ServingError, match=r"version 3: saved_model.pb has 7 bytes"):
        running.manager.configure(config(base, "specific { versions: 2 versions: 3 }"))
    assert answering(running) == 1
    running.manager.configure(config(base, "latest { num_versions: 1 }"))  # passed over, since not named
    assert answering(running) == 2


def test_nothing_of_a_refused_configuration_stays_loaded(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    add_version(base, models, 2)
    loaded: list[Any] = []
    load = running.manager._load
    running.manager._load = lambda *arguments: loaded.append(load(*arguments)) or loaded[-1]  # type: ignore
    wanted = config(base, "")
    wanted.model_config_list.config.add(name="absent", base_path=str(tmp_path / "absent"))
    with pytest.raises(ServingError):
        running.manager.configure(wanted)
    assert [each.version for each in loaded] == [2] and not loaded[0].acquire()


def test_reload_moves_labels_and_policies(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    add_version(base, models, 2)
    with grpc.insecure_channel(running.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest(config=config(base, "all {}"))
        assert stub.HandleReloadConfigRequest(request).status.error_code == 0
        request.config.CopyFrom(config(base, "all {}", {"stable": 1, "canary": 2}))
        stub.HandleReloadConfigRequest(request)
    assert (labelled(running, "stable"), labelled(running, "canary")) == (1, 2)


@pytest.mark.parametrize("settings", [QUIET, ALLOWING], ids=["strict", "allowing"])
def test_the_documented_release_works_as_written(
    base: pathlib.Path, models: pathlib.Path, settings: ServerSettings
) -> None:
    """Two edits a release, twice in a row: list the new version as canary; then it is stable, alone."""
    with EmbeddedServer(config(base, "specific { versions: 1 }", {"stable": 1}), settings) as server:
        for version in (2, 3):
            add_version(base, models, version)
            both = f"specific {{ versions: {version - 1} versions: {version} }}"
            server.manager.configure(config(base, both, {"stable": version - 1, "canary": version}))
            assert (labelled(server, "stable"), labelled(server, "canary")) == (version - 1, version)
            alone = f"specific {{ versions: {version} }}"
            server.manager.configure(config(base, alone, {"stable": version}))
            assert labelled(server, "stable") == version and states(server)[version - 1] == END


@pytest.mark.parametrize("settings", [QUIET, ALLOWING], ids=["strict", "allowing"])
def test_an_assigned_label_never_moves_to_a_version_that_does_not_serve_yet(
    base: pathlib.Path, models: pathlib.Path, settings: ServerSettings
) -> None:
    with EmbeddedServer(config(base, "", {"stable": 1}), settings) as server:
        for make in (lambda: None, lambda: add_version(base, models, 7)):
            make()  # at first there is no version 7, then it is there and not loaded
            with pytest.raises(ServingError, match="not currently available for inference") as raised:
                server.manager.configure(config(base, "all {}", {"stable": 7}))
            assert raised.value.code is grpc.StatusCode.FAILED_PRECONDITION
            assert labelled(server, "stable") == 1


@pytest.mark.parametrize(
    ("settings", "works"), [(QUIET, False), (ALLOWING, True)], ids=["strict", "allowing"]
)
def test_a_new_label_names_a_version_that_is_missing_only_where_that_is_allowed(
    base: pathlib.Path, settings: ServerSettings, works: bool
) -> None:
    with EmbeddedServer(config(base, ""), settings) as server:
        try:
            server.manager.configure(config(base, "", {"canary": 7}))
        except ServingError as error:
            assert not works and "version 7" in error.message
        else:
            assert works
        with pytest.raises(ServingError):
            labelled(server, "canary")
        assert answering(server) == 1


def test_a_model_left_out_of_a_new_configuration_is_gone(running: EmbeddedServer, base: pathlib.Path) -> None:
    running.manager.configure(single_model_config("other", base))
    with pytest.raises(ServingError, match=r"Latest\(scale\)"):
        running.service.predict(scale_request())
    assert running.service.predict(scale_request(model="other")).model_spec.name == "other"


def test_an_edited_configuration_file_is_taken_over_and_a_broken_one_is_not(
    base: pathlib.Path, models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    add_version(base, models, 2)
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(config(base, "specific { versions: 1 }")))
    settings = ServerSettings(file_system_poll_wait_seconds=0, model_config_file_poll_wait_seconds=0.05)
    with EmbeddedServer(file, settings) as server:
        assert answering(server) == 1
        file.write_text("model_config_list {")
        server.reload_config_file()
        assert answering(server) == 1
        file.write_text(text_format.MessageToString(config(base, "specific { versions: 2 }")))
        assert server.manager.wait_until(lambda manager: states(server).get(1) == END, 30)
        assert answering(server) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("custom_model_config {}", "Only ModelConfigList"),
        ("model_config_list { config { name: 'a' } }", "base_path"),
        ("model_config_list { config { name: 'a' base_path: 'b' } }", "absolute path"),
        ("model_config_list { config { name: 'a' base_path: '/b' model_platform: 'x' } }", "platform x"),
        (
            "model_config_list { config { name: 'a' base_path: '/b' model_version_policy { specific {} } } }",
            "names no version",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/b' } config { name: 'a' base_path: '/b' } }",
            "multiple times",
        ),
    ],
)
def test_an_impossible_configuration_changes_nothing(
    running: EmbeddedServer, text: str, message: str
) -> None:
    wrong = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    with pytest.raises(ServingError, match=message):
        running.manager.configure(wrong)
    assert answering(running) == 1
