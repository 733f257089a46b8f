"""A Flink cluster of two task managers makes the in-memory runner's records, or ends with one line."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from psad_tf.beam.flink import cluster
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.cli.main import main
from tests.beam import logs
from tests.beam.logs import DECLARATION

ROOT = Path(__file__).parents[2]
JARS = ROOT / ".cache" / "flink" / "jars"
LATEST = logs.START * 2
MISSING = [name for name in ("java", *(() if JARS.is_dir() else ("mvn",))) if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(MISSING) and "CI" not in os.environ, reason=f"a Flink cluster needs {' and '.join(MISSING)}"
    ),
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    data = logs.records()
    # Bad records and rows of a flat log travel every way there is.
    data["users"].append({"age": "none"})
    data["impressions"] += [
        data["impressions"][3],
        {"user_id": "user-2", "time": logs.START + 1, "item_id": "item-1", "initial_score": 0.5},
        {"user_id": "user-2", "time": logs.START + 2, "item_id": "item-2", "initial_score": 0.7},
    ]
    return logs.write_folder(tmp_path_factory.mktemp("raw"), data)


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("direct") / "lists"
    options = PreprocessOptions(num_shards=2, latest_time=LATEST, max_dropped=1.0)
    manifest = preprocess(raw, output, DECLARATION, options=options)
    return logs.digests(output), {**manifest, "created": None}


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # Java compiles no more than small jobs are worth: half the time.
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")
        state = cluster.start(folder := tmp_path_factory.mktemp("flink"), JARS)
    yield state
    cluster.stop(folder)


def _run(state, raw, output):
    """Runs `psad preprocess` on the cluster; returns its exit code."""
    command = [
        "preprocess", "--input_dir", raw, "--output_dir", output,
        "--num_shards=2", f"--latest_time={LATEST}", "--max_dropped=1", "--", *state["beam_options"],
    ]  # fmt: skip
    return main(list(map(str, command)))


def _is_right(output, expected):
    assert logs.digests(output) == expected[0]
    manifest = json.loads((output / "manifest.json").read_text())
    assert {**manifest, "created": None} == expected[1]


def _ended_with_one_line(said, folder):
    (line,) = [line for line in said.splitlines() if not line.startswith("preprocess: ")]
    assert os.listdir(folder) == []
    return line


def _workers(state):
    """Which task managers ran or run subtasks, by the number of subtasks that are at work or done."""
    found = {}
    for job in cluster.get(state, "/jobs")["jobs"]:
        for vertex in cluster.get(state, f"/jobs/{job['id']}")["vertices"]:
            answer = cluster.get(state, f"/jobs/{job['id']}/vertices/{vertex['id']}/taskmanagers")
            for each in answer["taskmanagers"]:
                counts = each["status-counts"]
                busy = counts["RUNNING"] + counts["FINISHED"]
                found[each["taskmanager-id"]] = found.get(each["taskmanager-id"], 0) + busy
    return {name for name, busy in found.items() if busy}


def _afterwards(condition, act):
    """Does `act` in the background as soon as the condition holds."""

    def wait():
        while not condition():
            time.sleep(0.1)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_both_task_managers_work_and_the_bytes_are_the_in_memory_runners(
    flink, raw, expected, tmp_path, capfd
):
    assert _run(flink, raw, tmp_path / "lists") == 0, capfd.readouterr().err
    assert "42 impressions: 41 lists" in capfd.readouterr().out
    _is_right(tmp_path / "lists", expected)
    assert _workers(flink) == {"task-manager-1", "task-manager-2"}


def test_a_job_that_fails_there_ends_with_one_line_and_no_output(flink, raw, tmp_path, capfd):
    shutil.copytree(raw, copied := tmp_path / "raw")
    (made := tmp_path / "made").mkdir()
    # The log is there when the job starts, and gone when a worker is to read it.
    _afterwards(lambda: os.listdir(made), (copied / "impressions.jsonl").unlink)
    assert _run(flink, copied, made / "lists") == 2
    line = _ended_with_one_line(capfd.readouterr().err, made)
    assert line.startswith("psad: the engine ended the job: ")
    assert "No such file or directory" in line and "impressions.jsonl" in line


def test_a_killed_task_manager_costs_time_or_ends_the_job_with_one_line(
    flink, raw, expected, tmp_path, capfd
):
    before = {job["id"] for job in cluster.get(flink, "/jobs")["jobs"]}
    killed = []

    def kill():
        os.killpg(flink["pids"]["task-manager-2"], signal.SIGKILL)
        killed.append(True)

    _afterwards(lambda: _at_work(flink, before), kill)
    code = _run(flink, raw, tmp_path / "lists")
    assert killed
    if code == 0:
        _is_right(tmp_path / "lists", expected)
        return
    assert code == 2
    assert _ended_with_one_line(capfd.readouterr().err, tmp_path).startswith("psad: the engine ended the job")


def _at_work(state, before):
    """Whether a new job has finished a subtask on the task manager that is to be killed, and runs another."""
    with contextlib.suppress(OSError):
        for job in cluster.get(state, "/jobs")["jobs"]:
            if job["id"] in before:
                continue
            for vertex in cluster.get(state, f"/jobs/{job['id']}")["vertices"]:
                answer = cluster.get(state, f"/jobs/{job['id']}/vertices/{vertex['id']}/taskmanagers")
                if "Read" in vertex["name"] and any(
                    each["taskmanager-id"] == "task-manager-2" and each["status-counts"]["FINISHED"]
                    for each in answer["taskmanagers"]
                ):
                    return True
    return False
