"""Every interface of Beam without a promise that the job stands on.

`tests/beam/test_compat.py` fails when a newer release takes one away or changes it.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

from apache_beam.io.tfrecordio import _TFRecordUtil
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner as LocalRunner
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker
from apache_beam.runners.worker import data_plane, sdk_worker
from apache_beam.runners.worker.channel_factory import GRPCChannelFactory
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment

# Once a second Beam's runner flushes what it sends to workers, in a thread of its own that holds no lock:
# what is written in the meantime is lost (apache-beam 2.72). At 0 nothing is flushed by time.
worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0

_MESSAGE_BYTES = 4 << 20


def write_tfrecord(file: Any, record: bytes) -> None:
    """Writes one record in the frame of a TFRecord to what has a `write`."""
    _TFRecordUtil.write_record(file, record)


def limit_worker_memory() -> None:
    """Keeps small what a worker process holds beside its work; to be called before it starts.

    gRPC widens its window for unread messages while a worker is busy, by tens of MB: it stays as it is. The
    output buffers of a step that is done live for a second, not for 60. Messages have 4 MB, not 10, since the
    sender holds the last one four times; messages of 1 MB pile up in its queue, by hundreds of MB on Flink.
    """

    def maybe_flush(stream: Any) -> None:
        if stream.size() > _MESSAGE_BYTES:
            stream.flush()

    GRPCChannelFactory.DEFAULT_OPTIONS.append(("grpc.http2.bdp_probe", 0))
    sdk_worker.DEFAULT_BUNDLE_PROCESSOR_CACHE_SHUTDOWN_THRESHOLD_S = 1
    data_plane._DEFAULT_SIZE_FLUSH_THRESHOLD = _MESSAGE_BYTES  # how much goes into one message
    streams: Any = data_plane.SizeBasedBufferingClosableOutputStream
    streams.maybe_flush = maybe_flush


@contextlib.contextmanager
def counting_shuffled(count: Callable[[int], object]) -> Iterator[None]:
    """Tells `count` the bytes that enter each GroupByKey of the in-memory runner."""
    append = GroupingBuffer.append

    def counted(buffer: Any, data: bytes) -> None:
        count(len(data))
        append(buffer, data)

    with mock.patch.object(GroupingBuffer, "append", counted):
        yield


class ProcessRunner(LocalRunner):
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
class LocalWorker(worker_handlers.SubprocessSdkWorkerHandler):
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
