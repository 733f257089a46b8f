"""The files around the code: what they name exists, and they are of the form that their readers expect."""

from __future__ import annotations

import pathlib
import re
import shlex

import yaml

import psad_tf

ROOT = pathlib.Path(__file__).parents[2]


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continuation lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "docker" / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_dockerfiles_copy_what_is_there_and_run_as_no_root():
    for name in ("train.Dockerfile", "serving.Dockerfile"):
        steps = instructions(name)
        assert steps[0][0] == "FROM"
        assert [argument for step, argument in steps if step == "USER"][-1] not in ("0", "root")
        for step, argument in steps:
            assert re.fullmatch(r"[A-Z]+", step)
            if step == "COPY":
                *sources, _ = shlex.split(argument)
                for source in sources:
                    assert source == "${MODELS}" or (ROOT / source).exists(), source


def test_the_training_image_installs_every_folder_of_the_package():
    copied = {argument.split()[0] for step, argument in instructions("train.Dockerfile") if step == "COPY"}
    house = re.findall(r'^    "(\w+)": "psad_tf', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert len(house) == 5
    assert set(house) <= copied


def test_the_serving_image_is_the_tested_version_of_tensorflow():
    locked = re.search(r"^tensorflow==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    compose = yaml.safe_load((ROOT / "serving_config" / "docker-compose.yml").read_text())
    image = f"tensorflow/serving:{locked}"
    assert instructions("serving.Dockerfile")[0] == ("FROM", image)
    assert compose["services"]["psad"]["image"] == image


def test_workflow_and_hooks_run_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["fast"]["steps"] if "run" in step]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands += [hook["entry"] for hook in hooks if hook["entry"].startswith("make")]
    targets = [command.split()[1] for command in commands]
    assert targets == ["test-fast", "types"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = psad_tf.__version__.partition(".dev")[0]
    assert citation["version"] == released
    assert citation["license"] == "Apache-2.0"
    assert f"## {released}" in (ROOT / "CHANGELOG.md").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
