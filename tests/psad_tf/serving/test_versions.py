from __future__ import annotations

import pathlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_management_pb2

from psad_tf.errors import InputError
from psad_tf.serving.server import EmbeddedServer, ServerSettings, single_model_config
from psad_tf.serving.server.manager import AVAILABLE, END
from psad_tf.serving.server.status import ServingError
from psad_tf.serving.version_files import write_files_list
from tests.psad_tf.serving.tiny_models import scale_request, write_model

QUIET = ServerSettings(file_system_poll_wait_seconds=0, drain_seconds=5.0)


@pytest.fixture
def base(tmp_path: pathlib.Path, models: pathlib.Path) -> pathlib.Path:
    """A base path of its own with version 1."""
    folder = tmp_path / "scale"
    folder.mkdir()
    shutil.copytree(models / "1", folder / "1")
    return folder


@pytest.fixture
def running(base: pathlib.Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer.of_model("scale", base, QUIET) as server:
        yield server


def add_version(base: pathlib.Path, models: pathlib.Path, version: int) -> None:
    """A new version, whole at once."""
    shutil.copytree(models / "2", base / "copying")
    write_files_list(str(base / "copying"))
    (base / "copying").rename(base / str(version))


def answering(server: EmbeddedServer) -> int:
    return server.service.predict(scale_request()).model_spec.version.value


def states(server: EmbeddedServer) -> dict[int, int]:
    return {version: state.state for version, state in server.manager.states("scale").items()}


def config(base: pathlib.Path, policy: str, labels: dict[str, int] | None = None) -> Any:
    made = single_model_config("scale", base)
    model = made.model_config_list.config[0]
    text_format.Parse(policy, model.model_version_policy)
    for label, version in (labels or {}).items():
        model.version_labels[label] = version
    return made


def test_a_new_version_takes_over_and_the_old_one_ends(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    assert answering(running) == 1
    add_version(base, models, 3)
    running.manager.poll()
    assert answering(running) == 3 and states(running) == {1: END, 3: AVAILABLE}


def test_the_base_path_is_watched(base: pathlib.Path, models: pathlib.Path) -> None:
    settings = ServerSettings(file_system_poll_wait_seconds=0.05)
    with EmbeddedServer.of_model("scale", base, settings) as server:
        add_version(base, models, 2)
        assert server.manager.wait_until(lambda manager: 2 in states(server) and answering(server) == 2, 30)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {3}),
        ("latest { num_versions: 2 }", {2, 3}),
        ("all {}", {1, 2, 3}),
        ("specific { versions: 1 versions: 3 versions: 8 }", {1, 3}),
    ],
)
def test_the_policy_chooses_the_versions(
    base: pathlib.Path, models: pathlib.Path, policy: str, served: set[int]
) -> None:
    for version in (2, 3):
        add_version(base, models, version)
    with EmbeddedServer(config(base, policy), QUIET) as server:
        assert {version for version, state in states(server).items() if state == AVAILABLE} == served


def test_a_corrupt_version_is_not_served_and_the_old_one_keeps_serving(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    add_version(base, models, 2)
    data = base / "2" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(b"\0" * data.stat().st_size)
    running.manager.poll()
    assert answering(running) == 1
    state = running.manager.states("scale")[2]
    assert state.state == END and "hash differs" in state.error and str(base) not in state.error


def test_a_half_copied_version_waits_until_it_is_whole(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    (base / "2").mkdir()
    shutil.copy(models / "2" / "saved_model.pb", base / "2")
    for _ in range(3):
        running.manager.poll()
    assert answering(running) == 1
    shutil.copytree(models / "2", base / "2", dirs_exist_ok=True)
    running.manager.poll()  # it has changed since the last look
    running.manager.poll()  # it has not
    assert answering(running) == 2


def test_a_restart_on_a_corrupt_newest_version_serves_the_one_before(
    base: pathlib.Path, models: pathlib.Path
) -> None:
    add_version(base, models, 2)
    (base / "2" / "saved_model.pb").write_bytes(b"damaged")
    with EmbeddedServer.of_model("scale", base, QUIET) as server:
        assert answering(server) == 1


def test_a_base_path_that_vanishes_does_not_stop_the_serving(
    running: EmbeddedServer, base: pathlib.Path
) -> None:
    shutil.rmtree(base)
    running.manager.poll()
    assert answering(running) == 1


def test_a_model_without_versions_is_an_error_at_start(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no versions found"):
        EmbeddedServer.of_model("scale", tmp_path, QUIET).start()


def test_requests_that_run_when_a_version_leaves_are_answered(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    add_version(base, models, 2)
    with running.manager.using(scale_request().model_spec) as loaded:
        swap = threading.Thread(target=running.manager.poll)
        swap.start()
        assert running.manager.wait_until(
            lambda manager: manager.states("scale")[1].state not in (AVAILABLE,), 30
        )
        outputs = loaded.signature("").run(scale_request().inputs)
        assert list(outputs["y"].float_val) == [1.0, 2.0] and states(running)[1] != END
    swap.join()
    assert states(running)[1] == END
    assert not loaded.acquire()  # whoever found it just before it left looks again


def test_reload_moves_labels_and_policies(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    from tensorflow_serving.apis import model_service_pb2_grpc

    add_version(base, models, 2)
    with grpc.insecure_channel(running.address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest(config=config(base, "all {}"))
        assert stub.HandleReloadConfigRequest(request).status.error_code == 0
        request.config.CopyFrom(config(base, "all {}", {"stable": 1, "canary": 2}))
        stub.HandleReloadConfigRequest(request)
    labelled = scale_request()
    labelled.model_spec.version_label = "stable"
    assert running.service.predict(labelled).model_spec.version.value == 1


def test_a_label_on_a_version_that_is_not_loaded_is_refused_unless_allowed(
    running: EmbeddedServer, base: pathlib.Path
) -> None:
    with pytest.raises(ServingError, match="not currently available for inference") as raised:
        running.manager.configure(config(base, "", {"stable": 7}))
    assert raised.value.code is grpc.StatusCode.FAILED_PRECONDITION and answering(running) == 1
    allowing = ServerSettings(
        file_system_poll_wait_seconds=0, allow_version_labels_for_unavailable_models=True
    )
    with EmbeddedServer(config(base, "", {"stable": 7}), allowing) as server:
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
            "model_config_list { config { name: 'a' base_path: '/b' } config { name: 'a' base_path: '/b' } }",
            "multiple times",
        ),
    ],
)
def test_an_impossible_configuration_changes_nothing(
    running: EmbeddedServer, text: str, message: str
) -> None:
    from tensorflow_serving.config import model_server_config_pb2

    wrong = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    with pytest.raises(ServingError, match=message):
        running.manager.configure(wrong)
    assert answering(running) == 1


def test_a_failing_warm_up_record_keeps_a_version_out(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    shutil.copytree(models / "2", base / "copying")
    (base / "copying" / "assets.extra").mkdir()
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(scale_request(signature="nope"))
    with tf.io.TFRecordWriter(str(base / "copying/assets.extra/tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    write_files_list(str(base / "copying"))
    (base / "copying").rename(base / "2")
    running.manager.poll()
    assert answering(running) == 1 and "warm-up failed" in running.manager.states("scale")[2].error


def test_twenty_swaps_under_load_fail_no_request(base: pathlib.Path, models: pathlib.Path) -> None:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    settings = ServerSettings(file_system_poll_wait_seconds=0)
    with EmbeddedServer.of_model("scale", base, settings) as server:
        ended = threading.Event()
        failures: list[str] = []
        seen: set[int] = set()

        def load() -> None:
            with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                while not ended.is_set():
                    try:
                        seen.add(stub.Predict(scale_request(), timeout=30).model_spec.version.value)
                    except grpc.RpcError as error:
                        failures.append(f"{error.code()}: {error.details()}")

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(2, 22):
            add_version(base, models, version)
            server.manager.poll()
            shutil.rmtree(base / str(version - 1))
        ended.set()
        for thread in threads:
            thread.join()
        assert failures == [] and answering(server) == 21 and len(seen) >= 2


def test_write_model_makes_what_the_other_tests_read(tmp_path: pathlib.Path) -> None:
    write_model(tmp_path, 5, factor=0.5)
    with EmbeddedServer.of_model("scale", tmp_path, QUIET) as server:
        outputs = server.service.predict(scale_request()).outputs
        assert list(outputs["y"].float_val) == [0.5, 1.0]
