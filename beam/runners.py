"""From Beam's command-line options to a runner."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineRunner, create_runner

from psad_tf.beam.compat import LocalRunner, LocalWorker, ProcessRunner
from psad_tf.errors import InputError

_ERROR_LINE = re.compile(r"(Caused by: )?[\w.$]*(Error|Exception)\b")
_LOCAL = (None, "DirectRunner", "FnApiRunner")


def parse_beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options.

    Raises:
        InputError: An option is not known, where only Beam's own can be meant, or has a wrong value.
    """
    said = io.StringIO()  # a hundred lines of usage, and then what is wrong
    log = logging.getLogger("apache_beam.options.pipeline_options")
    level = log.level
    log.setLevel(logging.ERROR)  # an option that is not known is named below
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(flags))
            known = options.get_all_options()
    except SystemExit:
        wrong = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"Beam's options are wrong: {wrong}") from None
    finally:
        log.setLevel(level)
    if known["runner"] in _LOCAL:  # other runners pass what Beam's Python does not know to their job server
        unknown = set(options.get_all_options(retain_unknown_options=True)) - set(known)
        if unknown or any(not flag.startswith("--") for flag in flags[:1]):
            names = ", ".join(f"--{name}" for name in sorted(unknown)) or flags[0]
            raise InputError(f"Beam knows no option {names}")
    return options


def make_runner(options: PipelineOptions) -> PipelineRunner:
    """The runner that the options name.

    Beam's `DirectRunner` first tries to download another runner; here it means the one in Python that it
    falls back to, in memory or, by `--direct_running_mode`, in several threads or processes.

    Raises:
        InputError: There is no such runner, or a package that it needs is not installed.
    """
    if is_local(options):
        in_processes = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
        return ProcessRunner() if in_processes else LocalRunner()
    try:
        return create_runner(options.view_as(StandardOptions).runner)
    except (ValueError, ImportError) as error:
        raise InputError(f"--runner: {error}") from error


def check_job_server(options: PipelineOptions) -> None:
    """Refuses a job server that does not answer within 10 s, or `--job_server_timeout` where it is given.

    Beam itself waits five minutes, and its error is empty.

    Raises:
        InputError: The one of `--job_endpoint` does not.
    """
    portable = options.view_as(PortableOptions)
    endpoint = portable.job_endpoint
    if not endpoint or endpoint == "embed":
        return
    given = portable.get_all_options(drop_default=True, retain_unknown_options=True)
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=given.get("job_server_timeout", 10))
        except grpc.FutureTimeoutError:
            raise InputError(f"--job_endpoint: no job server answers at {endpoint}") from None


def is_local(options: PipelineOptions) -> bool:
    """Whether the runner is the one in Python."""
    return options.view_as(StandardOptions).runner in _LOCAL


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Keeps back what an engine and its threads say of a job, many lines for each error: one is raised.

    Raises:
        InputError: A worker process of this machine ended, whatever the engine made of it.
    """

    def drop(_: Any) -> bool:
        return False

    loggers = logging.getLogger(), logging.getLogger("apache_beam")
    levels, hook = [each.level for each in loggers], threading.excepthook
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    threading.excepthook = drop
    LocalWorker.ended.clear()
    try:
        yield
    except Exception as error:
        if LocalWorker.ended:
            said = f"ended before its work was done, with exit code {LocalWorker.ended[0]}: is memory short?"
            raise InputError(f"a worker process of Beam {said}") from error
        raise
    finally:
        threading.excepthook = hook
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def cause(message: str) -> str:
    """The line of an engine's error that says what happened.

    Example:
        >>> cause("java.lang.Exception: Error\\nValueError: no such thing\\n\\tat org.apache.Some")
        'ValueError: no such thing'
    """
    lines = [line for line in message.splitlines() if _ERROR_LINE.match(line)]
    return (lines or message.strip().splitlines() or ["no reason was given"])[-1][:500]
