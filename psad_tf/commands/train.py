"""psad train: lists -> run folder."""

from __future__ import annotations

import argparse
import dataclasses

HELP = "train teacher and student together on preprocessed lists"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lists_dir", required=True, help="folder that 'psad preprocess' wrote")
    parser.add_argument("--output_dir", required=True, help="run folder to make")
    parser.add_argument("--config", default="", help="JSON file of the training configuration")
    parser.add_argument("--features", default="", help="feature declaration; left out: the lists' own")
    parser.add_argument("--seed", type=int, default=None, help="replaces the configuration's seed")
    parser.add_argument("--epochs", type=int, default=None, help="replaces the configuration's epochs")
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing or unfinished run")


def run(arguments: argparse.Namespace) -> None:
    from psad_tf.config import TrainConfig, load_train_config

    config = load_train_config(arguments.config) if arguments.config else TrainConfig()
    changes = {name: getattr(arguments, name) for name in ("seed", "epochs")}
    config = dataclasses.replace(config, **{key: v for key, v in changes.items() if v is not None})

    if config.distribution == "mirrored":
        from psad_tf.distribution import split_cpu

        split_cpu()

    from psad_tf.features import load_declaration

    declaration = load_declaration(arguments.features) if arguments.features else None

    from psad_tf.train import train

    result = train(
        arguments.lists_dir,
        arguments.output_dir,
        config,
        declaration=declaration,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    print(
        f"Wrote {result.run_dir}: best of {result.epochs} epochs is {result.best_epoch}, "
        f"validation NDCG@10 {result.metrics['student']['ndcg@10']:.4f}; "
        f"curves: tensorboard --logdir {result.run_dir}/logs"
    )
