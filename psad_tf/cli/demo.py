"""psad demo: everything, on MovieLens-100K."""

from __future__ import annotations

import argparse

HELP = "run every step on MovieLens-100K, from the public files to lists reranked over gRPC"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="runs/demo", help="folder of everything it makes")
    parser.add_argument("--config", default="", help="JSON file of the training configuration")
    parser.add_argument("--seeds", type=int, default=3, help="training runs, for the spread over seeds")
    parser.add_argument("--cache_dir", default=None, help="where the downloaded data set is kept")
    parser.add_argument("--overlap_stride", type=int, default=0, help="step of overlapping training windows")


def run(arguments: argparse.Namespace) -> None:
    from psad_tf.cli.demo_run import DemoConfig, run_demo
    from psad_tf.config import TrainConfig, load_train_config
    from psad_tf.errors import InputError

    if arguments.seeds < 1:
        raise InputError(f"--seeds: must be at least 1, got {arguments.seeds}")
    train = load_train_config(arguments.config) if arguments.config else TrainConfig()
    run_demo(
        DemoConfig(
            output_dir=arguments.output_dir,
            cache_dir=arguments.cache_dir,
            train=train,
            seeds=arguments.seeds,
            overlap_stride=arguments.overlap_stride,
        )
    )
