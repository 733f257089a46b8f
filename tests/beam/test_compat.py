"""The interfaces of Beam without a promise do what the job counts on; an upgrade that changes one fails here.

What `ProcessRunner` and `LocalWorker` do is shown in `test_runners.py`.
"""

from __future__ import annotations

import io

import apache_beam as beam
import tensorflow as tf
from apache_beam.runners.worker import data_plane

from psad_tf.beam.compat import LocalRunner, LocalWorker, ProcessRunner, counting_shuffled, write_tfrecord


def test_records_are_framed_as_tensorflow_frames_them(tmp_path):
    records = [b"", b"one", bytes(range(256)) * 9]
    with tf.io.TFRecordWriter(str(tmp_path / "expected")) as writer:
        for record in records:
            writer.write(record)
    file = io.BytesIO()
    for record in records:
        write_tfrecord(file, record)
    assert file.getvalue() == (tmp_path / "expected").read_bytes()


def test_what_enters_a_shuffle_is_counted():
    sizes: list[int] = []
    values = [("key", b"x" * 1000)] * 5
    with counting_shuffled(sizes.append), beam.Pipeline(runner=LocalRunner()) as pipeline:
        _ = pipeline | beam.Create(values) | beam.GroupByKey() | beam.Map(lambda each: list(each[1]))
    assert 5000 < sum(sizes) < 20_000
    counted = len(sizes)
    with beam.Pipeline(runner=LocalRunner()) as pipeline:
        _ = pipeline | beam.Create(values) | beam.GroupByKey()
    assert len(sizes) == counted


def test_worker_processes_are_started_by_the_commands_and_handlers_set_here():
    environment = ProcessRunner()._default_environment
    assert environment.command_string.startswith("exec ") and environment.command_string.endswith(
        "2>/dev/null"
    )
    handlers = LocalWorker.__mro__[1]._registered_environments
    assert LocalWorker in [constructor for constructor, _ in handlers.values()]


def test_beam_loses_what_is_written_while_a_buffer_is_flushed_by_time():
    """The reason for the line in `compat.py` that switches such flushes off; it can go when this fails."""
    sent: list[bytes] = []

    def send(data: bytes) -> None:
        sent.append(data)
        stream.write(b" late")  # as another thread may, before the buffer is emptied

    stream = data_plane.TimeBasedBufferingClosableOutputStream(
        sent.append, send, time_flush_threshold_ms=10**6
    )
    stream.write(b"early")
    stream.flush()
    stream.close()
    assert b"".join(sent) == b"early"
