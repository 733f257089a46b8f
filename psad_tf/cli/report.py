"""psad report: run folder -> one HTML page."""

from __future__ import annotations

import argparse

HELP = "write a run's curves and a few of its lists as one HTML page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", help="folder that 'psad train' wrote")
    parser.add_argument("--output", default=None, help="HTML file; left out: RUN/report.html")
    parser.add_argument("--lists_dir", default=None, help="the run's lists, for examples before and after")
    parser.add_argument("--items", default=None, help="JSON lines of items with a title, shown for their ids")


def run(arguments: argparse.Namespace) -> None:
    from psad_tf.evaluation.report import write_report

    path = write_report(arguments.run_dir, arguments.output, arguments.lists_dir, arguments.items)
    print(f"Wrote {path}")
