"""Setting up: the locks agree, and a machine without Python 3.11 is told so in one line."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file; every line must pin one."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        requirement = line.split("#")[0].split(";")[0].strip()
        if requirement:
            package, version = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.+!]+)", requirement).groups()
            found[package.lower()] = version
    return found


@pytest.mark.parametrize("other", ["requirements-dev.txt", "requirements-gpu.txt"])
def test_locks_have_the_same_version_of_every_runtime_package(other):
    runtime, other_lock = locked("requirements.txt"), locked(other)
    assert len(runtime) > 50
    assert {package: other_lock.get(package) for package in runtime} == runtime


@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "requirements-gpu"])
def test_a_lock_holds_what_its_source_pins(name):
    lock = locked(f"{name}.txt")
    for line in (ROOT / f"{name}.in").read_text().splitlines():
        match = re.match(r"(\w[\w.-]*)(?:\[[\w,-]+\])?(?:==([\w.]+))?", line.split("#")[0].strip())
        if match:  # not `-r requirements.in`
            assert match[1].lower() in lock
            assert match[2] in (None, lock[match[1].lower()])


@pytest.fixture
def clone(tmp_path) -> pathlib.Path:
    """What set-up reads, at a path with a space in it."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(clone: pathlib.Path, *programs: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `make setup` with only the shell's own tools and `programs` (name, script) on PATH."""
    tools = clone / "tools"
    tools.mkdir()
    for name in ("make", "cmp", "cp", "rm", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    for name, script in programs:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return subprocess.run(
        [str(tools / "make"), "--no-print-directory", "setup"],
        cwd=clone,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("programs", [(), (("python3", "exit 1"),)], ids=["none", "another version"])
def test_without_python_3_11_one_line_says_what_to_install(clone, programs):
    done = make(clone, *programs)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode == 2
    assert said == ["psad: Python 3.11 is needed: install it so that 'python3.11' is on PATH"]
    assert not (clone / ".venv").exists()


def test_python3_is_taken_where_that_is_3_11(clone):
    python = 'case "$1" in -c) exit 0;; *) echo "$0 $*"; exit 1;; esac'
    done = make(clone, ("python3.11", "exit 1"), ("python3", python))
    assert "tools/python3 -m venv .venv" in done.stdout
    assert "install the venv module" in done.stderr


def test_without_python_3_11_uv_may_fetch_one(clone):
    fetched = clone / "fetched"
    fetched.write_text('#!/bin/sh\necho "$0 $*"; exit 1\n')
    fetched.chmod(0o755)
    uv = f'case "$2" in install) exit 0;; find) echo "{fetched}";; esac'
    assert "fetched -m venv .venv" in make(clone, ("uv", uv)).stdout
    shutil.rmtree(clone / "tools")
    assert "Python 3.11 is needed" in make(clone, ("uv", "exit 1")).stderr


def test_set_up_is_skipped_while_the_lock_is_unchanged_and_done_again_when_it_changed(clone):
    stamp = clone / ".venv" / "runtime.lock"
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = clone / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    shutil.copy(clone / "requirements.txt", stamp)
    (clone / "requirements.txt").touch()
    assert make(clone).returncode == 0  # nothing on PATH could have set it up
    shutil.rmtree(clone / "tools")
    with open(clone / "requirements.txt", "a") as file:
        file.write("another==1.0\n")
    assert "Python 3.11 is needed" in make(clone).stderr
