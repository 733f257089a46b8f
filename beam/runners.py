"""From Beam's command-line options to a runner."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment

from psad_tf.errors import InputError

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
        return _ProcessRunner() if in_processes else FnApiRunner()
    try:
        return create_runner(options.view_as(StandardOptions).runner)
    except (ValueError, ImportError) as error:
        raise InputError(f"--runner: {error}") from error


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
    _Worker.ended.clear()
    try:
        yield
    except Exception as error:
        if _Worker.ended:
            said = f"ended before its work was done, with exit code {_Worker.ended[0]}: is memory short?"
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


class _ProcessRunner(FnApiRunner):
    """Starts its workers by a command that a space in Python's path does not break, as Beam's own is.

    What they print is kept back: the errors of a record reach the runner otherwise.
    """

    @property
    def _default_environment(self) -> Environment:
        command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
        return SubprocessSDKEnvironment.from_command_string(f"{command} 2>/dev/null")

    @_default_environment.setter
    def _default_environment(self, _: Environment) -> None:
        """Beam sets its own."""


@worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _Worker(worker_handlers.SubprocessSdkWorkerHandler):
    """A worker process whose end ends the job: Beam's own waits for ever for one that was killed."""

    ended: ClassVar[list[str]] = []

    def start_worker(self) -> None:
        self._closing = threading.Event()
        self.worker_thread = threading.Thread(target=self._run, daemon=True)
        self.worker_thread.start()

    def close(self) -> None:
        self._closing.set()
        super().close()

    def _run(self) -> None:
        try:
            SubprocessSdkWorker(
                self._worker_command_line, self.control_address, self.provision_info, self.worker_id
            ).run()
        except RuntimeError as error:
            self.ended.append(str(error).rpartition(" ")[2])
            while not self._closing.wait(0.1):  # a request may come after this one
                self.control_conn.abort(error)
