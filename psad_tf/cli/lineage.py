"""`psad lineage`: from a pushed model back to the raw files, out of the metadata store."""

from __future__ import annotations

import argparse

HELP = "print what a model that 'psad tfx' pushed was made of, back to the raw files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `psad lineage`."""
    parser.add_argument("--metadata", required=True, help="SQLite file of the pipeline's metadata store")
    parser.add_argument(
        "--model", default=None, help="pushed version: folder or number (default: the latest)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a tree")


def run(arguments: argparse.Namespace) -> None:
    """Prints the lineage."""
    from psad_tf.tfx_pipeline.dependencies import require_tfx

    require_tfx()
    from psad_tf.cli.tfx import quiet_imports

    with quiet_imports():
        from psad_tf.tfx_pipeline.lineage import lineage_text, pushed_lineage

    node = pushed_lineage(arguments.metadata, arguments.model)
    if arguments.json:
        import json

        print(json.dumps(node.to_dict(), indent=2))
    else:
        print(lineage_text(node))
