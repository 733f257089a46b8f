"""The wheel: one package, all of the tree, and a working `psad` in an environment that has nothing else."""

from __future__ import annotations

import base64
import email.parser
import hashlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import psad_tf

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = {
    "psad_tf": "psad_tf",
    "beam": "psad_tf/beam",
    "export": "psad_tf/export",
    "tfx_pipeline": "psad_tf/tfx_pipeline",
    "configs": "psad_tf/configs",
}
NAMESAKES = ("beam==0.6.0", "export==0.2.1")
PACKAGED = {".py", ".json", ".typed", ".xml", ".sh", ".yaml"}

pytestmark = [pytest.mark.process, pytest.mark.slow]


def tracked() -> list[str]:
    """Files of the repository, committed or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel of a copy of the tree."""
    copy = tmp_path_factory.mktemp("wheel") / "a tree"
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--wheel-dir", str(copy.parent)], cwd=copy, check=True, capture_output=True)
    return next(copy.parent.glob("*.whl"))


def test_the_wheel_holds_the_tree_and_one_top_level_package(wheel):
    expected = {
        FOLDERS[top] + name.removeprefix(top)
        for name in tracked()
        for top in [name.partition("/")[0]]
        if top in FOLDERS and pathlib.Path(name).suffix in PACKAGED
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert found == expected
    assert {"psad_tf/py.typed", "psad_tf/configs/movielens.json", "psad_tf/beam/pipeline.py"} <= found


def test_the_metadata_says_what_an_index_shows(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == psad_tf.__version__
    assert metadata["License"] == "Apache-2.0"
    assert metadata["Author"] == "the PSAD-TF authors"
    assert {"tfx", "bench", "gpu", "dev"} == set(metadata.get_all("Provides-Extra"))
    requirements = [each.partition(";")[0] for each in metadata.get_all("Requires-Dist")]
    assert not any("==" in each for each in requirements)  # ranges; the locks pin


def test_every_imported_distribution_is_declared():
    declared = {
        re.match(r"[\w.-]+", each)[0].lower().replace("_", "-")
        for each in importlib.metadata.requires("psad-tf")
    }
    providers = importlib.metadata.packages_distributions()
    imported = set()
    for name in tracked():
        if name.partition("/")[0] in FOLDERS and name.endswith(".py"):
            text = (ROOT / name).read_text()
            imported |= set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))
    missing = {}
    for module in imported - sys.stdlib_module_names - {"psad_tf"}:
        distributions = {each.lower().replace("_", "-") for each in providers.get(module, ())}
        if distributions and not distributions & declared:
            missing[module] = distributions
    assert missing == {}


def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    """Its own metadata pulls in all that it needs; the lock holds versions to what was tested.

    Two packages of the index have the names of folders of this repository: neither they nor this one are
    harmed.
    """
    uv = pathlib.Path(sys.executable).with_name("uv")
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python]
    subprocess.run([*install, "--no-deps", *NAMESAKES], check=True)
    subprocess.run([*install, "--constraint", ROOT / "requirements.txt", wheel], check=True)
    psad = [str(environment / "bin" / "psad")]
    steps = (
        ["--help"],
        ["simulate", "--output_dir", "raw", "--lists", "200"],
        ["preprocess", "--input_dir", "raw", "--output_dir", "lists"],
        ["train", "--lists_dir", "lists", "--output_dir", "run", "--epochs", "1"],
    )
    for step in steps:
        done = subprocess.run([*psad, *step], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    path = [str(each) for each in environment.glob("lib/python*/site-packages")]
    for name in (each.partition("==")[0] for each in NAMESAKES):
        (distribution,) = importlib.metadata.distributions(name=name, path=path)
        for file in distribution.files:
            contents = pathlib.Path(file.locate()).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).decode().rstrip("=")
            assert file.hash is None or file.hash.value == digest, file
