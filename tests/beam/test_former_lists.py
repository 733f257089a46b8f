"""The lists are to the byte those of the former job, which carried records itself and not by Beam's shuffle.

The digests below were taken of its output on the same raw data (the last commit before "Send records through
Beam's own shuffle"). Raw data depend on a machine's arithmetic in their last digits; where they are not the
same, nothing can be said of the lists.
"""

import hashlib
from pathlib import Path

import pytest

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.pipeline import preprocess
from psad_tf.cli.main import main
from psad_tf.data.records import KINDS
from psad_tf.datasets.simulator import SimulatorConfig, simulate
from psad_tf.features import load_declaration
from tests.beam import logs

pytestmark = pytest.mark.slow

SIMULATED = (
    "748b86f670eccedd34fdc52e094aff53c32db4f74e3bcc16deb8d8261495bf23",
    "ead1525c00dccb6359b957570b1205f21099958959b5ebd84c2eba95b9e84743",
)
MOVIELENS = (
    "260856dc6bdb3f87c375dc3a6cbfa90b72c13fc42af31f02d42121d46b3f9392",
    "ff6c94e6e222678e8df29f06fd2a1b94240480832bb22021f3832905b57ee9c3",
)


def _lists_are_the_former_jobs(raw: Path, output: Path, digests: tuple[str, str], lists: int) -> None:
    found = hashlib.sha256(b"".join((raw / f"{kind}.jsonl").read_bytes() for kind in KINDS)).hexdigest()
    if found != digests[0]:
        pytest.skip("this machine makes other raw data")
    options = PreprocessOptions(latest_time=2_000_000_000)
    preprocess(raw, output, load_declaration(raw / "features.json"), options=options)
    made = logs.read_lists(output)
    assert len(made) == lists
    total = hashlib.sha256()
    for request_id in sorted(made):
        total.update(made[request_id].SerializeToString(deterministic=True))
    assert total.hexdigest() == digests[1]


def test_on_simulated_logs(tmp_path):
    simulate(str(tmp_path / "raw"), SimulatorConfig(lists=2000, candidates=12, items=300, seed=3), 1)
    _lists_are_the_former_jobs(tmp_path / "raw", tmp_path / "lists", SIMULATED, 2000)


def test_on_movielens(tmp_path, capfd):
    if main(["build-lists", "--output_dir", str(tmp_path / "raw")]) != 0:
        assert "package index" in (said := capfd.readouterr().err), said
        pytest.skip("neither a package index nor a cache")
    _lists_are_the_former_jobs(tmp_path / "raw", tmp_path / "lists", MOVIELENS, 3560)
