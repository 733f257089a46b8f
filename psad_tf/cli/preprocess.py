"""`psad preprocess`: raw logs -> training lists, by Beam."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

HELP = "turn raw logs into training lists, vocabularies, statistics and a schema (Beam)"

RAW_KINDS = ("impressions", "interactions", "users", "items")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--input_dir", metavar="FOLDER",
        help="raw data folder: impressions, interactions, users and items .jsonl, and features.json",
    )  # fmt: skip
    for kind in RAW_KINDS:
        parser.add_argument(
            f"--{kind}",
            nargs="+",
            metavar="PATTERN",
            help=f"files or globs of {kind}, instead of the folder's",
        )
    parser.add_argument(
        "--features", metavar="FILE", help="feature declaration, instead of the folder's features.json"
    )
    parser.add_argument("--output_dir", metavar="FOLDER", required=True, help="folder to write")
    parser.add_argument(
        "--valid_fraction", type=float, default=0.1, help="share of the lists, by time, that validate"
    )
    parser.add_argument(
        "--test_fraction", type=float, default=0.1, help="share of the lists, the latest, that test"
    )
    parser.add_argument("--valid_from", type=int, help="seconds since 1970 UTC from which lists validate")
    parser.add_argument("--test_from", type=int, help="seconds since 1970 UTC from which lists test")
    parser.add_argument("--num_shards", type=int, default=4, help="files per split")
    parser.add_argument(
        "--vocabulary_min_count", type=int, default=1, help="rarer values are out of vocabulary"
    )
    parser.add_argument(
        "--max_vocabulary_size",
        type=int,
        default=1_000_000,
        help="values that a vocabulary keeps, the most frequent",
    )
    parser.add_argument(
        "--long_lists",
        choices=("drop", "truncate"),
        default="drop",
        help="what to do with lists over max_candidates",
    )
    parser.add_argument("--min_candidates", type=int, default=1, help="shorter lists are dead letters")
    parser.add_argument(
        "--session_gap_seconds", type=int, default=1800,
        help="in logs without request ids, a longer pause starts a new list",
    )  # fmt: skip
    parser.add_argument(
        "--latest_time", type=int, help="seconds; later records are dead letters (default: now)"
    )
    parser.add_argument(
        "--time_zone",
        default="",
        help="of ISO times that name none, as UTC; without it they are dead letters",
    )
    parser.add_argument(
        "--max_dropped",
        type=float,
        default=0.01,
        help="a larger share of dead letters of a kind fails the job",
    )
    parser.add_argument("--compression_level", type=int, default=1, help="of the gzip files, 1 to 3")
    parser.add_argument(
        "beam_options", nargs="*", metavar="-- BEAM_OPTION",
        help="options of Beam after --, for instance -- --runner=DataflowRunner --project=p",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Runs the command."""
    from psad_tf.data.records import FEATURES_FILE
    from psad_tf.errors import InputError
    from psad_tf.features import load_declaration

    folder = arguments.input_dir
    if folder is None and not (arguments.impressions and arguments.features):
        raise InputError("give --input_dir, or --impressions and --features")
    if arguments.features is None and "://" in folder:
        raise InputError(f"{folder}: is not a local folder: give the feature declaration by --features FILE")
    declaration = load_declaration(arguments.features or os.path.join(folder, FEATURES_FILE))

    # Beam warns of an optional package when it is imported; nothing here needs it.
    logging.disable(logging.WARNING)
    from psad_tf.beam.options import PreprocessOptions, SplitPolicy
    from psad_tf.beam.pipeline import preprocess
    from psad_tf.beam.sources import RawInputs, unread_files

    logging.disable(logging.NOTSET)
    given = {kind: tuple(getattr(arguments, kind) or ()) for kind in RAW_KINDS}
    if folder is None:
        inputs = RawInputs(**given)
    elif any(given.values()):
        found = RawInputs.from_folder(folder)
        inputs = dataclasses.replace(found, **{kind: paths for kind, paths in given.items() if paths})
    else:
        inputs = RawInputs.from_folder(folder)
    if folder is not None and "://" not in folder:
        for name in unread_files(folder, inputs):
            print(f"Not read, by its name: {os.path.join(folder, name)}")
    split = SplitPolicy(
        arguments.valid_fraction, arguments.test_fraction, arguments.valid_from, arguments.test_from
    )
    names = {field.name for field in dataclasses.fields(PreprocessOptions)} & set(vars(arguments))
    options = PreprocessOptions(split=split, **{name: getattr(arguments, name) for name in names})
    with ended_by_signals():
        manifest = preprocess(
            inputs,
            arguments.output_dir,
            declaration,
            options=options,
            pipeline_options=arguments.beam_options,
        )
    counts = manifest["counts"]
    dropped = sum(counts["dropped"].values())
    lists = ", ".join(f"{count} {split}" for split, count in manifest["lists"].items())
    print(f"Read {counts['read']} impressions: {counts['written']} lists ({lists}), {dropped} dead letters")
    _print_reasons(counts["dropped"])
    for kind in ("rows", *RAW_KINDS[1:]):
        of_kind = counts.get(kind, {})
        if of_kind.get("dropped"):
            dropped = sum(of_kind["dropped"].values())
            print(f"Read {of_kind['read']} {kind}: {of_kind['kept']} kept, {dropped} dead letters")
            _print_reasons(of_kind["dropped"])
    _print_facts(manifest)
    print(f"Wrote {arguments.output_dir}")


def _print_facts(manifest: dict[str, Any]) -> None:
    """Files, positives, coverage of the features, and how much of the answers stands in the histories."""
    files = ", ".join(f"{len(names)} of {kind}" for kind, names in manifest["inputs"].items())
    print(f"Files read: {files}")
    lists = sum(manifest["lists"].values())
    positives = ", ".join(f"{count:,} {split}" for split, count in manifest["positives"].items())
    print(f"Candidates with a label of 1 or more: {positives}")
    for split, count in manifest["positives"].items():
        if manifest["lists"][split] and not count:
            print(f"  none in the split {split}: it can neither train nor measure anything")
    covered = ", ".join(f"{name} {count / lists:.0%}" for name, count in manifest["coverage"].items())
    print(f"Lists in which a feature has a value: {covered}")
    past = manifest["in_history"]
    shares = [
        past[f"{kind}_in_history"] / past[kind] if past[kind] else 0.0 for kind in ("positives", "negatives")
    ]
    print(f"Already in their list's history: {shares[0]:.1%} of the positives, {shares[1]:.1%} of the others")
    if shares[0] > 0.2 and shares[0] > 3 * shares[1]:
        print(
            "  The histories may hold the answers: are the interactions' clocks behind the requests', or are "
            "interactions logged with the time of the request's day?"
        )


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ends with one line and code 143 or 130 on SIGTERM or Ctrl-C; nothing half written stays.

    Where a step of the job is running, the runner turns the interrupt into an exception of its own, so what
    counts is that a signal came.
    """
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    # Where Ctrl-C is ignored, as in a shell's background jobs, it stays so.
    heeded = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        heeded.append(signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    except BaseException:
        if not asked:
            raise
        print("psad: interrupted", file=sys.stderr)
        raise SystemExit(128 + asked[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_reasons(dropped: dict[str, int]) -> None:
    for reason, count in dropped.items():
        print(f"  {count} {reason}")
