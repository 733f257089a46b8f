from __future__ import annotations

import pathlib
import re
import shutil
import threading

import grpc
import pytest

from psad_tf.errors import InputError
from psad_tf.serving.server import EmbeddedServer, ServerSettings
from psad_tf.serving.server.manager import AVAILABLE, END
from psad_tf.serving.version_files import write_files_list
from tests.psad_tf.serving.swapping import QUIET, add_version, answering, config, factor, states
from tests.psad_tf.serving.tiny_models import scale_request, write_model


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
    running: EmbeddedServer,
    base: pathlib.Path,
    models: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_version(base, models, 2)
    data = base / "2" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(b"\0" * data.stat().st_size)
    running.manager.poll()
    assert answering(running) == 1
    state = running.manager.states("scale")[2]
    assert state.state == END and "hash differs" in state.error and str(base) not in state.error
    assert f"{base}/2: variables" in caplog.text  # the log has the path, callers have not


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


def test_a_copy_that_stalled_is_loaded_anew_when_the_rest_arrives(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    """A copy without its list of files yet, that has stopped changing, looks whole."""
    shutil.copytree(models / "1", base / "2")  # the right number of files, of the wrong model
    for _ in range(2):
        running.manager.poll()
    assert answering(running) == 2 and factor(running) == 1.0
    shutil.copytree(models / "2", base / "2", dirs_exist_ok=True)
    write_files_list(str(base / "2"))
    running.manager.poll()
    assert answering(running) == 2 and factor(running) == 2.0


def test_a_stalled_copy_gives_way_when_its_list_says_that_it_is_not_whole(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path
) -> None:
    shutil.copytree(models / "1", base / "2")
    for _ in range(2):
        running.manager.poll()
    whole = shutil.copytree(models / "2", base / "aside")
    write_files_list(str(whole))
    shutil.copytree(whole / "assets.extra", base / "2" / "assets.extra")
    running.manager.poll()
    assert answering(running) == 1
    error = running.manager.states("scale")[2].error
    assert "are listed" in error or "its hash differs" in error, error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("saved_model.pb", "saved_model.pb is damaged"),
        ("variables/variables.index", "not an sstable|DataLossError: .*[a-z]{4}"),
        ("variables/variables.data-00000-of-00001", "Error: .*[a-z]{4}"),
    ],
)
def test_what_is_wrong_with_a_version_is_said_without_its_path(
    running: EmbeddedServer, base: pathlib.Path, models: pathlib.Path, name: str, message: str
) -> None:
    shutil.copytree(models / "2", base / "2")
    data = (base / "2" / name).read_bytes()
    (base / "2" / name).write_bytes(b"\xff" * (len(data) // 2))
    for _ in range(2):
        running.manager.poll()
    error = running.manager.states("scale")[2].error
    assert re.search(message, error) and "Graph execution error" not in error
    assert str(base) not in error and answering(running) == 1


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
    with pytest.raises(InputError, match=f"no versions found under its base path {tmp_path}"):
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


@pytest.mark.slow
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
