"""One untrained run, its lists and its exports, shared by the tests of this folder."""

from __future__ import annotations

import pathlib

import pytest


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run folder with random weights."""
    from tests.export.tiny_run import make_run

    return make_run(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="session")
def tiny_lists(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A list folder with a test split."""
    from tests.export.tiny_run import make_lists

    return make_lists(tmp_path_factory.mktemp("lists") / "lists")


@pytest.fixture(scope="session")
def exported(
    tiny_run: pathlib.Path, tiny_lists: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """Version 1 of the run, exported plainly."""
    from psad_tf.export.saved_model import export_saved_model

    base = tmp_path_factory.mktemp("models")
    return pathlib.Path(export_saved_model(tiny_run, base, lists_dir=tiny_lists))
