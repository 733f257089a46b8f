"""Starts and stops a Flink session cluster on loopback, on free ports.

A cluster is a folder: the configuration, the processes' logs and `cluster.json`, which says what runs where.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from psad_tf.errors import InputError

STATE = "cluster.json"
_POM = Path(__file__).with_name("pom.xml")
_START_SECONDS = 300
# What Flink reads by reflection of Java's own modules.
_OPENED = (
    "java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text",
    "java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic",
    "java.util.concurrent.locks", "sun.nio.ch",
)  # fmt: skip
# Beam sends a Python worker up to 100 messages before it asks whether the worker keeps up. They wait outside
# the heap, and a shard is one message: `task.off-heap` is room for so many of 10 MB.
_HEAP = {"task.heap": 512, "framework.heap": 128}
_DIRECT = {"task.off-heap": 1024, "framework.off-heap": 128, "network": 256}
_OTHER = {"managed": 256, "jvm-metaspace": 256, "jvm-overhead": 192}
# Java's second compiler takes more time than it gives, but where the same code runs for minutes.
_ONE_COMPILER = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m")
_LATE_COMPILER = (
    "-XX:Tier4InvocationThreshold=100000", "-XX:Tier4MinInvocationThreshold=20000",
    "-XX:Tier4CompileThreshold=300000", "-XX:Tier4BackEdgeThreshold=800000",
)  # fmt: skip


def start(
    folder: str | os.PathLike[str], jars: str | os.PathLike[str], task_managers: int = 2
) -> dict[str, Any]:
    """Starts a cluster: a job manager, task managers and Beam's job server.

    Args:
        folder: The cluster's folder; it must not hold a running cluster.
        jars: Folder of the jars; they are fetched with Maven where it does not exist.
        task_managers: Each has as many slots, so that one of them can do all.

    Returns:
        What `cluster.json` says: `pids` by name, `rest` (the URL of Flink's REST interface) and
        `beam_options`, which make a Beam job run there.

    Raises:
        InputError: Java or Maven is missing, a cluster runs already, or a process ended or did not answer.
    """
    java = shutil.which("java")
    if java is None:
        raise InputError("a Flink cluster needs Java: install a JRE 11 or 17 so that 'java' is on PATH")
    place = Path(folder).absolute()
    if (place / STATE).exists():
        raise InputError(f"{place}: a cluster runs there already: stop it first")
    fetch_jars(jars)
    place.mkdir(parents=True, exist_ok=True)
    rpc, rest, job = _free_ports(3)
    _write_configuration(place, rpc, rest, task_managers)
    opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
    opens.append("--add-exports=java.base/sun.net.util=ALL-UNNAMED")
    # Beam sends the class path of its job server along with each job, 150 MB that all processes have, but for
    # what lies in a folder of this name.
    unsent = place / "gradle" / "wrapper"
    shutil.rmtree(unsent, ignore_errors=True)
    shutil.copytree(jars, unsent, copy_function=_link_or_copy)
    common = [java, *opens, "-cp", f"{unsent}/*"]
    flink = ["--configDir", str(place / "conf")]
    commands = {
        "job-manager": [
            *_ONE_COMPILER, "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", *flink,
        ],
        **{
            f"task-manager-{number}": [
                *_LATE_COMPILER,
                f"-Xmx{sum(_HEAP.values())}m", f"-XX:MaxDirectMemorySize={sum(_DIRECT.values())}m",
                "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", *flink,
                "-D", f"taskmanager.resource-id=task-manager-{number}",
            ]
            for number in range(1, task_managers + 1)
        },
        "job-server": [
            *_ONE_COMPILER, "org.apache.beam.runners.flink.FlinkJobServerDriver",
            f"--flink-master=localhost:{rest}", "--job-host=localhost", f"--job-port={job}",
            "--artifact-port=0", "--expansion-port=0",
        ],
    }  # fmt: skip
    boot = place / "worker"
    # A message has megabytes: without the first line glibc soon gives none of them back to the system.
    boot.write_text(
        f"#!/bin/sh\nexport MALLOC_MMAP_THRESHOLD_={1 << 20}\n"
        f'exec {shlex.quote(sys.executable)} -m psad_tf.beam.flink.worker "$@"\n'
    )
    boot.chmod(0o755)
    state = {
        "rest": f"http://localhost:{rest}",
        "beam_options": [
            "--runner=PortableRunner", f"--job_endpoint=localhost:{job}", "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(boot)}, separators=(',', ':'))}",
            f"--parallelism={task_managers}",
            "--environment_cache_millis=60000",  # workers go on from stage to stage
            # The workers run in this environment: no 'pip freeze' to compare theirs with.
            "--experiments=disable_logging_submission_environment",
        ],
        "pids": {
            name: _spawn([*common, *command], place / f"{name}.log") for name, command in commands.items()
        },
    }  # fmt: skip
    (place / STATE).write_text(json.dumps(state, indent=2) + "\n")
    try:
        _wait_until_ready(place, state, task_managers, job)
    except BaseException:
        stop(place)
        raise
    return state


def stop(folder: str | os.PathLike[str]) -> None:
    """Stops the cluster of a folder; the logs stay.

    Raises:
        InputError: There is none.
    """
    for pid in read(folder)["pids"].values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # the group: a task manager's workers are to end with it
    (Path(folder) / STATE).unlink()


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `start` returned.

    Raises:
        InputError: No cluster runs in the folder.
    """
    path = Path(folder) / STATE
    if not path.exists():
        raise InputError(f"{path}: no such file: no cluster runs there ('psad flink start' starts one)")
    return json.loads(path.read_text())


def fetch_jars(folder: str | os.PathLike[str]) -> None:
    """Fetches Flink and Beam's runner for it from Maven Central, where the folder does not exist.

    Raises:
        InputError: Maven is missing or failed.
    """
    if os.path.isdir(folder):
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise InputError(f"{os.fspath(folder)}: no such folder, and no Maven ('mvn') to fetch it with")
    print("Fetching Flink and Beam's runner for it (152 MB, once)", file=sys.stderr)
    temporary = f"{os.path.abspath(folder)}.tmp-{os.getpid()}"
    command = [
        maven, "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies", "-DincludeScope=runtime",
        f"-DoutputDirectory={temporary}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(temporary, ignore_errors=True)
        line = next(iter((done.stdout + done.stderr).strip().splitlines()), "no output")
        raise InputError(f"Maven could not fetch Flink: {line}")
    os.rename(temporary, folder)


def get(state: dict[str, Any], path: str) -> Any:
    """Flink's answer to a GET of its REST interface."""
    with urllib.request.urlopen(f"{state['rest']}{path}", timeout=10) as answer:
        return json.load(answer)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copyfile(source, target)


def _write_configuration(place: Path, rpc: int, rest: int, slots: int) -> None:
    settings = {
        "jobmanager.rpc.address": "localhost",
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": "localhost",
        "jobmanager.memory.process.size": "1024m",
        "rest.address": "localhost",
        "rest.bind-address": "localhost",
        "rest.port": rest,
        "taskmanager.host": "localhost",
        "taskmanager.bind-host": "localhost",
        "taskmanager.numberOfTaskSlots": slots,
        "taskmanager.load-balance.mode": "SLOTS",  # tasks on all task managers, not on the first
        "taskmanager.cpu.cores": 1,
        "parallelism.default": slots,
        "classloader.resolve-order": "parent-first",
        "io.tmp.dirs": place / "tmp",
        "restart-strategy.type": "fixed-delay",
        # A lost task manager fails several tasks, each of which is a try, before two heartbeats tell it.
        "restart-strategy.fixed-delay.attempts": 4,
        "restart-strategy.fixed-delay.delay": "3 s",
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 20000,
        **_memory_settings(),
    }
    (place / "conf").mkdir(exist_ok=True)
    (place / "tmp").mkdir(exist_ok=True)
    text = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (place / "conf" / "config.yaml").write_text(text)


def _memory_settings() -> dict[str, str]:
    """A task manager wants each part of its memory named; some have a range instead of a size."""
    sizes = {**_HEAP, **_DIRECT, **_OTHER}
    ranged = ("network", "jvm-overhead")
    parts = {name: ("min", "max") if name in ranged else ("size",) for name in sizes}
    return {
        f"taskmanager.memory.{name}.{limit}": f"{size}m"
        for name, size in sizes.items()
        for limit in parts[name]
    }


def _spawn(command: list[str], log: Path) -> int:
    with open(log, "wb") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        ).pid


def _wait_until_ready(place: Path, state: dict[str, Any], task_managers: int, job_port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        for name, pid in state["pids"].items():
            if _ended(pid):
                raise InputError(f"Flink's {name} ended: see {place / name}.log")
        with contextlib.suppress(OSError):
            registered = get(state, "/taskmanagers")["taskmanagers"]
            with socket.create_connection(("localhost", job_port), timeout=1):
                if len(registered) == task_managers:
                    return
        if time.monotonic() > deadline:
            raise InputError(f"Flink did not answer within {_START_SECONDS} s: see the logs in {place}")
        time.sleep(0.3)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return not os.path.exists(f"/proc/{pid}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
