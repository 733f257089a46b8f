"""A Flink cluster of two task managers makes the in-memory runner's records, also when one is killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psad_tf.beam.flink import cluster
from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
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
    data = logs.records(lists=120, users=20)
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
    state = cluster.start(folder := tmp_path_factory.mktemp("flink"), JARS)
    yield state
    cluster.stop(folder)


def _started(state, raw, output):
    command = [
        sys.executable, "-m", "psad_tf.cli", "preprocess", "--input_dir", raw, "--output_dir", output,
        "--num_shards=2", f"--latest_time={LATEST}", "--max_dropped=1", "--", *state["beam_options"],
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


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


def _is_right(process, output, expected):
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "122 impressions: 121 lists" in printed
    assert logs.digests(output) == expected[0]
    manifest = json.loads((output / "manifest.json").read_text())
    assert {**manifest, "created": None} == expected[1]


def test_both_task_managers_work_and_the_bytes_are_the_in_memory_runners(flink, raw, expected, tmp_path):
    process = _started(flink, raw, tmp_path / "lists")
    _is_right(process, tmp_path / "lists", expected)
    assert _workers(flink) == {"task-manager-1", "task-manager-2"}


def test_a_killed_task_manager_costs_time_or_ends_the_job_with_one_line(flink, raw, expected, tmp_path):
    before = {job["id"] for job in cluster.get(flink, "/jobs")["jobs"]}
    process = _started(flink, raw, tmp_path / "lists")
    while not _at_work(flink, before):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(flink["pids"]["task-manager-2"], signal.SIGKILL)
    if process.wait() == 0:
        _is_right(process, tmp_path / "lists", expected)
        return
    _, errors = process.communicate()
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if not line.startswith("preprocess: ")]
    assert line.startswith("psad: ")
    assert os.listdir(tmp_path) == []


def _at_work(state, before):
    """Whether a new job has finished a subtask on the task manager that is to be killed, and runs another."""
    for job in cluster.get(state, "/jobs")["jobs"]:
        if job["id"] in before:
            continue
        with contextlib.suppress(OSError):
            for vertex in cluster.get(state, f"/jobs/{job['id']}")["vertices"]:
                answer = cluster.get(state, f"/jobs/{job['id']}/vertices/{vertex['id']}/taskmanagers")
                if (
                    any(
                        each["taskmanager-id"] == "task-manager-2" and each["status-counts"]["FINISHED"]
                        for each in answer["taskmanagers"]
                    )
                    and "Read" in vertex["name"]
                ):
                    return True
    return False
