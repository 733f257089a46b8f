"""psad train: lists -> run folder."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

HELP = "train teacher and student together on preprocessed lists"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lists_dir", required=True, help="folder that 'psad preprocess' wrote")
    parser.add_argument("--output_dir", required=True, help="run folder to make")
    parser.add_argument("--config", default="", help="JSON file of the training configuration")
    parser.add_argument("--features", default="", help="feature declaration; left out: the lists' own")
    parser.add_argument("--seed", type=int, default=None, help="replaces the configuration's seed")
    parser.add_argument("--epochs", type=int, default=None, help="replaces the configuration's epochs")
    parser.add_argument(
        "--device",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="gpu refuses to start without one; auto takes the GPUs there are",
    )
    parser.add_argument("--resume", action="store_true", help="continue an unfinished run")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing or unfinished run")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="with several workers: when another is lost, wait for it and resume, this many times",
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains; starts itself anew from the last checkpoint where another worker was lost."""
    from psad_tf.config import TrainConfig, load_train_config
    from psad_tf.errors import InputError

    if arguments.restarts < 0:
        raise InputError(f"--restarts: must be 0 or more, got {arguments.restarts}")
    config = load_train_config(arguments.config) if arguments.config else TrainConfig()
    changes = {name: getattr(arguments, name) for name in ("seed", "epochs")}
    config = dataclasses.replace(config, **{key: v for key, v in changes.items() if v is not None})

    from psad_tf.features import load_declaration

    declaration = load_declaration(arguments.features) if arguments.features else None

    from psad_tf.training.devices import choose_device, silence_xla

    choose_device(arguments.device)
    from psad_tf.training.distribution import WorkerLostError, split_cpu

    if config.distribution == "mirrored":
        split_cpu()

    from psad_tf.training.trainer import train

    if config.jit_compile and config.distribution == "none":
        silence_xla()
    try:
        result = train(
            arguments.lists_dir,
            arguments.output_dir,
            config,
            declaration=declaration,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
        )
    except WorkerLostError as error:
        if not arguments.restarts:
            raise
        print(f"psad: {error}; waiting for it ({arguments.restarts} restarts left)", file=sys.stderr)
        sys.stderr.flush()
        os.execv(sys.executable, restart_command(arguments))
    print(
        f"Wrote {result.run_dir}: best of {result.epochs} epochs is {result.best_epoch}, "
        f"validation NDCG@10 {result.metrics['student']['ndcg@10']:.4f}; "
        f"curves: tensorboard --logdir {result.run_dir}/logs"
    )


def restart_command(arguments: argparse.Namespace) -> list[str]:
    """The command line that resumes from the last checkpoint, with one restart less.

    TensorFlow's connection to the cluster cannot be renewed inside a process, so the process is replaced.
    """
    command = [sys.executable, "-m", "psad_tf.cli", "train", "--resume"]
    command += ["--restarts", str(arguments.restarts - 1)]
    for name in ("lists_dir", "output_dir", "config", "features", "seed", "epochs", "device"):
        value = getattr(arguments, name)
        if value not in (None, ""):
            command += [f"--{name}", str(value)]
    return command
