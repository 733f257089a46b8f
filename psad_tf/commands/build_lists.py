"""`psad build-lists`: turns a public data set into a raw data folder."""

from __future__ import annotations

import argparse
import os

HELP = "turn a public data set into a raw data folder: lists, interactions, users, items, features"

DATASETS = ("movielens-100k",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad build-lists`."""
    parser.add_argument("--dataset", choices=DATASETS, default="movielens-100k", help="the data set")
    parser.add_argument("--output_dir", required=True, help="the raw data folder to write")
    parser.add_argument(
        "--cache_dir", default=None, help="cache of downloaded data (default: $PSAD_CACHE, else .cache/psad)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the upstream stage")
    parser.add_argument(
        "--overlap_stride",
        type=int,
        default=0,
        help="also make overlapping training lists that start every so many interactions; 0 makes none",
    )


def run(arguments: argparse.Namespace) -> None:
    """Builds the lists, and says what was made and how good the initial order is."""
    import dataclasses

    from psad_tf.datasets.initial_order import InitialOrderMeter
    from psad_tf.datasets.raw_data import write_raw_data
    from psad_tf.records import IMPRESSIONS

    data = _movielens(arguments)
    meter = InitialOrderMeter(data.declaration.label)
    data = dataclasses.replace(data, impressions=meter.watch(data.impressions))
    print("writing the lists", flush=True)
    counts = write_raw_data(data, arguments.output_dir)
    for split, ndcg in meter.results().items():
        print(
            f"  {split}: {meter.lists[split]:,} lists; initial order NDCG@{meter.top} {ndcg:.4f} "
            f"over the {meter.lists_with_relevant[split]:,} with a relevant item"
        )
    made = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(
        f"built {arguments.dataset}: {counts[IMPRESSIONS]:,} lists ({made}) in {_shown(arguments.output_dir)}"
    )


def _shown(path: str) -> str:
    return os.path.join(path, "")


def _movielens(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    from psad_tf.datasets import download, movielens
    from psad_tf.datasets.windows import WindowRules
    from psad_tf.retrieval import RetrievalConfig

    rules = WindowRules(overlap_stride=arguments.overlap_stride)
    folder = download.fetch(download.MOVIELENS_100K, arguments.cache_dir)
    data = movielens.read_movielens(folder)
    print(f"read {sum(map(len, data.ratings.values())):,} ratings of {len(data.ratings):,} users", flush=True)
    print("training the upstream stage (two-tower retrieval and rating)", flush=True)
    return movielens.build_raw_data(data, rules, RetrievalConfig(seed=arguments.seed))
