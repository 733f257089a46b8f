"""Generated data that many tests share: one small world, preprocessed once a process."""

from __future__ import annotations

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest


@pytest.fixture(scope="session")
def raw_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A raw data folder of 240 simulated lists of 8 candidates."""
    from psad_tf.datasets.simulator import SimulatorConfig, simulate

    folder = tmp_path_factory.mktemp("generated") / "raw"
    simulate(str(folder), SimulatorConfig(lists=240, candidates=8, items=60, seed=7), 1)
    return folder


@pytest.fixture(scope="session")
def lists_dir(raw_dir: pathlib.Path) -> pathlib.Path:
    """The same world's training lists."""
    from psad_tf.beam.pipeline import preprocess
    from psad_tf.features import load_declaration

    folder = raw_dir.parent / "lists"
    preprocess(str(raw_dir), str(folder), load_declaration(raw_dir / "features.json"))
    return folder
