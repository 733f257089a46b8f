"""The console command `psad`: one subcommand a step, clear errors, exit code 2 for a user's mistake."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from psad_tf.errors import InputError

# Subcommand -> module of psad_tf.cli, in the order of the data's way.
COMMANDS = {
    "fetch-data": "fetch_data",
    "build-lists": "build_lists",
    "simulate": "simulate",
    "preprocess": "preprocess",
    "flink": "flink",
    "train": "train",
    "evaluate": "evaluate",
    "export": "export",
    "check-parity": "check_parity",
    "serve": "serve",
    "rerank": "rerank",
    "report": "report",
    "tfx": "tfx",
    "lineage": "lineage",
    "demo": "demo",
}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        print(f"{self.prog}: {message} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(2)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that say something: not None, an empty text or an absent flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default in ("", []):
            return action.help
        return super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """Makes the parser; the commands' modules import what is heavy only when they run."""
    parser = _Parser(
        prog="psad",
        description="Personalized semi-autoregressive reranking with online distillation.",
        epilog="Each step reads the files of the step before it; 'psad STEP --help' tells which.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="STEP", parser_class=_Parser)
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"psad_tf.cli.{module_name}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _says_something(record: logging.LogRecord) -> bool:
    """Not Keras' warning of every callback that takes longer than a step, as a checkpoint does."""
    return "is slow compared to the batch time" not in str(record.msg)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        0 when it did its work, 1 when a check that it ran failed, 2 for a wrong input (one line on
        stderr says what and where), 75 when another worker of a distributed run is gone, 130 when
        interrupted, 141 when whoever read its output has stopped.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("tensorflow").addFilter(_says_something)
    warnings.filterwarnings("ignore", message="You are using a Python version", category=FutureWarning)
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 2
    options = parser.parse_args(arguments)
    try:
        code = int(options.run(options) or 0)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(str(error))
    except BrokenPipeError:  # as in `psad rerank ... | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes there at exit
        return 141  # 128 + SIGPIPE, as a shell counts it
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"{error.filename or 'output'}: the disk is full")
        if error.errno is None or error.filename is None:
            raise
        return _fail(f"{error.filename}: {os.strerror(error.errno)}")
    except RuntimeError as error:
        if type(error).__name__ != "WorkerLostError":  # its module imports TensorFlow
            raise
        print(f"psad: {' '.join(str(error).split())}", file=sys.stderr)
        return 75  # EX_TEMPFAIL: worth another try
    except KeyboardInterrupt:
        print("psad: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = _tensorflow_mistake(error, getattr(options, "lists_dir", None))
        if message is None:
            raise
        return _fail(message)


def _tensorflow_mistake(error: Exception, lists_dir: str | None) -> str | None:
    """What a TensorFlow error says of a damaged file or a full disk; None for every other error.

    TensorFlow reads and writes files in its own threads, so that these errors may come up anywhere.
    """
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    if errors is None or not isinstance(error, (errors.DataLossError, errors.ResourceExhaustedError)):
        return None
    # "{{function_node ...}} <file>; No space left on device [Op:SaveV2] name: "
    said = error.message.rpartition("}}")[2].partition(" [Op:")[0].strip()
    if isinstance(error, errors.DataLossError):
        return f"{lists_dir or 'input'}: a record cannot be read: {said}"
    if os.strerror(errno.ENOSPC) not in said:
        return None
    return f"{said.partition(';')[0]}: the disk is full"


def _fail(message: str) -> int:
    print(f"psad: {' '.join(message.split())}", file=sys.stderr)
    return 2
