"""One untrained run, its lists and its exports, shared by the tests of this folder."""

from __future__ import annotations

import pathlib

import pytest

from tests.conftest import shared_folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run folder with random weights."""
    from tests.export.tiny_run import make_run

    return shared_folder(tmp_path_factory, "untrained-run", make_run)


@pytest.fixture(scope="session")
def tiny_lists(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A list folder with a test split."""
    from tests.export.tiny_run import make_lists

    return shared_folder(tmp_path_factory, "untrained-lists", make_lists)


@pytest.fixture(scope="session")
def exported(
    tiny_run: pathlib.Path, tiny_lists: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """Version 1 of the run, exported plainly."""
    from psad_tf.export.saved_model import export_saved_model

    def export(folder: pathlib.Path) -> None:
        export_saved_model(tiny_run, folder, lists_dir=tiny_lists)

    return shared_folder(tmp_path_factory, "exported", export) / "psad" / "1"
