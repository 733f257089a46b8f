"""The documentation builds as a site without a warning, and its pages name files and commands that exist."""

from __future__ import annotations

import ast
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks import list_value_report
from psad_tf.cli.main import COMMANDS

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.process
def test_the_site_builds_without_warnings(tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(ROOT / "docs", copy / "docs")
    shutil.copy(ROOT / "mkdocs.yml", copy)
    package = copy / ".cache" / "types" / "psad_tf"
    package.mkdir(parents=True)
    for path in (ROOT / "psad_tf").iterdir():
        (package / path.name).symlink_to(path)
    for name in ("beam", "export", "tfx_pipeline", "configs"):
        (package / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site" / "architecture.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_and_commands_that_a_page_names_exist(page):
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    folders = "psad_tf|beam|export|tfx_pipeline|configs|benchmarks|tests|docs|serving_config|docker|examples"
    for name in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/.-]*", text):
        assert (ROOT / name.rstrip(".")).exists(), name
    for command in re.findall(r"^psad ([a-z][a-z-]*)", text, re.MULTILINE):
        assert command in COMMANDS, command
    for target in re.findall(r"`make ([a-z][a-z-]*)", text):
        if target != "bench-":
            assert re.search(rf"^(?:[\w-]+ )*{target}[: ]", makefile, re.MULTILINE), target


def imports_of(page: pathlib.Path) -> list[tuple[str, str]]:
    """(module, name) of every `from module import name` in the page's Python."""
    text = page.read_text(encoding="utf-8")
    return [
        (node.module, alias.name)
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]


@pytest.mark.parametrize("page", [each for each in PAGES if imports_of(each)], ids=lambda each: each.name)
def test_what_a_pages_python_imports_exists(page):
    for module, name in imports_of(page):
        assert module.partition(".")[0] not in ("beam", "export", "tfx_pipeline"), (
            "names of folders, not packages"
        )
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_the_table_of_results_is_the_benchmarks_own(page):
    found = json.loads((ROOT / "benchmarks" / "results" / "list_value.json").read_text())
    assert list_value_report.summary(found) in (ROOT / page).read_text()
