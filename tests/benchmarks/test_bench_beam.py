"""The Beam benchmark's table: speed, memory, growth and the share of the plain writer's speed a core."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import bench_beam
from psad_tf.datasets.simulator import SimulatorConfig
from psad_tf.errors import InputError


def _found(lists: int, cpu_seconds: float, mebibytes: int) -> dict[str, Any]:
    return {
        "lists": lists, "cpu_seconds": cpu_seconds, "peak_bytes": mebibytes << 20,
        "lists_per_second": lists / 10, "lists_per_cpu_second": lists / cpu_seconds, "shuffled_share": 0.5,
    }  # fmt: skip


def test_the_table_shows_speed_memory_growth_and_the_share_of_the_plain_writer() -> None:
    results = {
        bench_beam.PLAIN: {"10000": _found(10_000, 4.0, 500)},
        bench_beam.BEAM: {"100000": _found(100_000, 30.0, 300), "10000": _found(10_000, 2.5, 250)},
    }
    _, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in bench_beam.table(results).splitlines()
    ]
    assert rows == [
        ["plain writer", "10,000", "1,000", "2,500", "1.00", "500", "0.50", "-", "-"],
        ["Beam, one process", "10,000", "1,000", "4,000", "1.60", "250", "0.50", "-", "-"],
        ["Beam, one process", "100,000", "10,000", "3,333", "-", "300", "0.50", "-", "x10, x12.0, x1.20"],
    ]


@pytest.mark.slow
def test_every_engine_is_measured_and_both_writers_write_equal_lists(tmp_path: Any) -> None:
    from psad_tf.datasets.simulator import simulate

    raw = str(tmp_path / "raw")
    simulate(raw, SimulatorConfig(lists=60, candidates=5, items=50))
    bench_beam.check_equal(raw, str(tmp_path))
    for engine in (bench_beam.PLAIN, bench_beam.BEAM):
        found = bench_beam.measure(engine, raw, str(tmp_path / engine))
        assert found["lists"] == 60 and found["cpu_seconds"] > 0 and found["peak_bytes"] > 1 << 26
    assert 0 < found["shuffled_share"] < 2


def test_a_finished_measurement_is_not_made_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def measured(engine: str, lists: int, work_dir: str) -> dict[str, Any]:
        made.append((engine, lists))
        if len(made) == 3:
            raise KeyboardInterrupt
        return _found(lists, 4.0, 500)

    monkeypatch.setattr(bench_beam, "measured_alone", measured)
    command = ["bench_beam", "--lists", "20", "30", "--engines", bench_beam.BEAM, bench_beam.FLINK]
    monkeypatch.setattr("sys.argv", [*command, "--work_dir", str(tmp_path), "--results_dir", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        bench_beam.main()
    bench_beam.main()
    several = [(engine, lists) for lists in (20, 30) for engine in (bench_beam.BEAM, bench_beam.FLINK)]
    assert made == [*several[:3], *several[2:]]
    monkeypatch.setattr(bench_beam, "code_fingerprint", lambda *_: "of other code")
    bench_beam.main()
    assert made[5:] == several


def test_writers_that_differ_are_not_compared(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from psad_tf.datasets.simulator import simulate

    raw = str(tmp_path / "raw")
    simulate(raw, SimulatorConfig(lists=20, candidates=5, items=50))
    monkeypatch.setattr("benchmarks.plain_writer.INITIAL_SCORE", "popularity")
    with pytest.raises(InputError, match="write different lists"):
        bench_beam.check_equal(raw, str(tmp_path))
