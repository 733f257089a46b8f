"""`psad export`: writes a SavedModel that TensorFlow Serving serves."""

from __future__ import annotations

import argparse

HELP = "export User Profile Network and student of a run as a SavedModel, with warm-up records"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad export`."""
    parser.add_argument("--run_dir", required=True, help="run folder that 'psad train' wrote")
    parser.add_argument("--base_dir", required=True, help="folder of served models; <base>/<model>/<version>")
    parser.add_argument("--model_name", default="psad", help="name under which the model is served")
    parser.add_argument("--version", type=int, default=None, help="version number (default: the next one)")
    parser.add_argument("--lists_dir", default=None, help="lists from which warm-up records are taken")
    parser.add_argument(
        "--warmup_candidates",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="numbers of candidates that traffic will have (default: those of the lists)",
    )
    parser.add_argument("--top_m", type=int, default=0, help="length of the ranking returned; 0 for all")
    parser.add_argument("--jit_compile", action="store_true", help="compile the scoring with XLA")
    parser.add_argument("--float16", action="store_true", help="store matrices in float16")


def run(arguments: argparse.Namespace) -> None:
    """Exports and says what was written."""
    from psad_tf.errors import InputError
    from psad_tf.export.saved_model import describe, export_saved_model
    from psad_tf.export.signatures import GraphOptions

    if arguments.top_m < 0:
        raise InputError(f"--top_m: must not be negative, got {arguments.top_m}")
    if arguments.warmup_candidates and arguments.lists_dir is None:
        raise InputError("--warmup_candidates: needs --lists_dir, where the records are taken from")
    path = export_saved_model(
        arguments.run_dir,
        arguments.base_dir,
        model_name=arguments.model_name,
        version=arguments.version,
        lists_dir=arguments.lists_dir,
        warmup_candidates=arguments.warmup_candidates,
        options=GraphOptions(arguments.top_m, arguments.jit_compile, arguments.float16),
    )
    if arguments.lists_dir is None:
        print("no warm-up records were written (name a folder of lists with --lists_dir)")
    print(f"exported to {path}: {describe(path)}")
