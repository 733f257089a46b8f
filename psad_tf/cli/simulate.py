"""`psad simulate`: writes the logs of a click world with a known optimum as a raw data folder."""

from __future__ import annotations

import argparse

HELP = "write the logs of a simulated click world, with a known optimum, as a raw data folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad simulate`."""
    parser.add_argument("--output_dir", required=True, help="the raw data folder to write")
    parser.add_argument("--lists", type=int, default=10_000, help="lists to log")
    parser.add_argument("--candidates", type=int, default=20, help="candidates of a list")
    parser.add_argument("--items", type=int, default=2_000, help="items in the world")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and its logs")
    parser.add_argument("--workers", type=int, default=1, help="processes; the output does not depend on it")


def run(arguments: argparse.Namespace) -> None:
    """Simulates, and says what was made, where and how fast."""
    import sys
    import time

    from psad_tf.data.records import IMPRESSIONS
    from psad_tf.datasets.simulated import simulate
    from psad_tf.datasets.simulator import SimulatorConfig

    config = SimulatorConfig(
        lists=arguments.lists, candidates=arguments.candidates, items=arguments.items, seed=arguments.seed
    )
    started = time.monotonic()
    counts = simulate(arguments.output_dir, config, arguments.workers, progress=sys.stderr.isatty())
    seconds = time.monotonic() - started
    lists = counts[IMPRESSIONS]
    made = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if kind != IMPRESSIONS)
    print(f"simulated {lists:,} lists ({made}) in {seconds:.1f} s ({lists / seconds:,.0f} lists/s)")
    print(f"in {arguments.output_dir}")
