"""From Beam's command-line options to a runner."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment

from psad_tf.errors import InputError

# Other runners pass options that Beam's Python does not know to their job server.
_ERROR_LINE = re.compile(r"(Caused by: )?[\w.$]*(Error|Exception)\b")
_LOCAL = (None, "DirectRunner", "FnApiRunner")


def parse_beam_options(flags: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options.

    Raises:
        InputError: An option is not known, where only Beam's own can be meant, or has a wrong value.
    """
    try:
        options = PipelineOptions(list(flags))
        known = options.get_all_options()
    except SystemExit:
        raise InputError(f"Beam's options are wrong: {' '.join(flags)}") from None
    if known["runner"] in _LOCAL:
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
    name = options.view_as(StandardOptions).runner
    if name in (None, "DirectRunner", "FnApiRunner"):
        in_processes = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
        return _ProcessRunner() if in_processes else FnApiRunner()
    try:
        return create_runner(name)
    except (ValueError, ImportError) as error:
        raise InputError(f"--runner: {error}") from error


def is_local(options: PipelineOptions) -> bool:
    """Whether the runner is the one in Python."""
    return options.view_as(StandardOptions).runner in _LOCAL


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Keeps back what an engine says of a job, stack traces of many lines: its error is raised after all."""
    root = logging.getLogger()  # where Beam's portable runner repeats it
    drop = logging.Filter("an engine's messages have no logger of their own")
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)


def cause(message: str) -> str:
    """The line of an engine's error that says what happened.

    Example:
        >>> cause("java.lang.Exception: Error\\nValueError: no such thing\\n\\tat org.apache.Some")
        'ValueError: no such thing'
    """
    lines = [line for line in message.splitlines() if _ERROR_LINE.match(line)]
    return (lines or message.strip().splitlines() or ["no reason was given"])[-1][:500]


class _ProcessRunner(FnApiRunner):
    """Starts its workers by a command that a space in Python's path does not break, as Beam's own is."""

    @property
    def _default_environment(self) -> Environment:
        python = shlex.quote(sys.executable)
        return SubprocessSDKEnvironment.from_command_string(
            f"{python} -m apache_beam.runners.worker.sdk_worker_main"
        )

    @_default_environment.setter
    def _default_environment(self, _: Environment) -> None:
        """Beam sets its own."""
