"""`psad flink`: a Flink cluster on this machine for `psad preprocess`."""

from __future__ import annotations

import argparse
import os
import shlex

HELP = "start or stop a Flink cluster on this machine, to run preprocess on"
CACHE = os.path.join(".cache", "flink")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "action", choices=("start", "stop", "options"), help="'options' prints Beam's options"
    )
    parser.add_argument(
        "--cluster_dir",
        metavar="FOLDER",
        default=os.path.join(CACHE, "cluster"),
        help="configuration and logs",
    )
    parser.add_argument(
        "--jars_dir", metavar="FOLDER", default=os.path.join(CACHE, "jars"),
        help="Flink's jars; fetched with Maven where there is no such folder",
    )  # fmt: skip
    parser.add_argument("--task_managers", type=int, default=2, help="worker processes of the cluster")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command."""
    from psad_tf.beam.flink import cluster

    folder = arguments.cluster_dir
    if arguments.action == "stop":
        cluster.stop(folder)
        print(f"Stopped the cluster of {folder}")
        return
    if arguments.action == "options":
        # As $(psad flink options) is taken apart at spaces, and quotes in it stay.
        print(" ".join(cluster.read(folder)["beam_options"]))
        return
    state = cluster.start(folder, arguments.jars_dir, arguments.task_managers)
    print(f"A Flink cluster with {arguments.task_managers} task managers runs; its page is {state['rest']}")
    print(f"psad preprocess ... -- {shlex.join(state['beam_options'])}")
    print(f"Logs are in {folder}; 'psad flink stop' stops it")
