"""What training the unknown row is worth on users and items that nobody has seen.

    python -m benchmarks.unknown_ids --lists_dir LISTS --rates 0 0.01 0.05 0.1 --seeds 1 2 3

Trains one run per rate of `model.embedding.unknown_rate` and seed, and ranks the test lists twice: as they
are, and with the ids of all users and of a share of the items replaced by ones outside the vocabularies.
Prints the student's NDCG@10.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from psad_tf.config import TrainConfig, load_train_config
from psad_tf.data.batches import ListDataset
from psad_tf.evaluation.evaluate import Evaluator
from psad_tf.features import HISTORY_PREFIX, ITEM_ID, PADDING_ID, UNKNOWN_ID, USER_ID
from psad_tf.training.run_folder import load_psad
from psad_tf.training.trainer import train


def with_unknown_ids(
    batch: Mapping[str, tf.Tensor], item_share: float, item_count: int
) -> dict[str, tf.Tensor]:
    """The batch with every user and the same share of the items unknown, in lists and histories alike."""
    unknown_item = tf.constant(np.random.default_rng(0).random(item_count) < item_share)
    changed = dict(batch)
    for key in (ITEM_ID, HISTORY_PREFIX + ITEM_ID):
        unknown = tf.gather(unknown_item, batch[key]) & (batch[key] != PADDING_ID)
        changed[key] = tf.where(unknown, UNKNOWN_ID, batch[key])
    if USER_ID in batch:
        changed[USER_ID] = tf.fill(tf.shape(batch[USER_ID]), UNKNOWN_ID)
    return changed


def measure(lists_dir: str, config: TrainConfig, item_share: float, run_dir: str) -> tuple[float, float]:
    """NDCG@10 of the student on known and on unknown ids."""
    train(lists_dir, run_dir, config, verbose=False)
    encoder, model, _ = load_psad(run_dir)
    lists = ListDataset(lists_dir, "test", encoder, config.data)
    items = encoder.vocabulary_sizes[ITEM_ID]
    known = Evaluator(lists, lambda batch: {"student": model(batch)["scores"]}, config.jit_compile)
    unknown = Evaluator(
        lists,
        lambda batch: {"student": model(with_unknown_ids(batch, item_share, items))["scores"]},
        config.jit_compile,
    )
    first, second = (each.run().means()["student"]["ndcg@10"] for each in (known, unknown))
    return first, second


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row per rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists_dir", required=True)
    parser.add_argument("--config", default="", help="training configuration (default: the defaults)")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.01, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--item_share", type=float, default=0.3, help="share of the items that are unknown")
    options = parser.parse_args(arguments)
    base = load_train_config(options.config) if options.config else TrainConfig()
    print("| unknown_rate | known ids | unknown ids |\n|---|---|---|")
    for rate in options.rates:
        embedding = dataclasses.replace(base.model.embedding, unknown_rate=rate)
        config = dataclasses.replace(base, model=dataclasses.replace(base.model, embedding=embedding))
        found = []
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                run_dir = os.path.join(folder, "run")
                seeded = dataclasses.replace(config, seed=seed)
                found.append(measure(options.lists_dir, seeded, options.item_share, run_dir))
        cells = [
            f"{np.mean(each):.4f} ± {np.std(each, ddof=1) if len(each) > 1 else 0.0:.4f}"
            for each in zip(*found, strict=True)
        ]
        print(f"| {rate:g} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
