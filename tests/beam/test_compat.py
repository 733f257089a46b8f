"""The interfaces of Beam without a promise do what the job counts on; an upgrade that changes one fails here.

What `ProcessRunner` and `LocalWorker` do is shown in `test_runners.py`.
"""

from __future__ import annotations

import copy
import io
import threading
from unittest import mock

import apache_beam as beam
import grpc
import pytest
import tensorflow as tf
from apache_beam.io.tfrecordio import WriteToTFRecord
from apache_beam.runners.worker import data_plane, sdk_worker
from apache_beam.runners.worker.channel_factory import GRPCChannelFactory

from psad_tf.beam.compat import (
    LocalRunner,
    LocalWorker,
    ProcessRunner,
    counting_shuffled,
    limit_worker_memory,
    write_tfrecord,
)

SECONDS = "DEFAULT_BUNDLE_PROCESSOR_CACHE_SHUTDOWN_THRESHOLD_S"


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


def test_beams_own_sink_shuffles_every_record(tmp_path):
    """A reason for `OutputFile`; the other is the random shard at which such a sink starts."""
    sizes: list[int] = []
    records = [b"x" * 1000] * 50
    with counting_shuffled(sizes.append), beam.Pipeline(runner=LocalRunner()) as pipeline:
        _ = pipeline | beam.Create(records) | WriteToTFRecord(str(tmp_path / "part"), num_shards=4)
    assert sum(sizes) > 50_000


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


@pytest.fixture
def limited_memory(monkeypatch):
    kept = (
        (GRPCChannelFactory, "DEFAULT_OPTIONS"),
        (sdk_worker, SECONDS),
        (data_plane, "_DEFAULT_SIZE_FLUSH_THRESHOLD"),
        (data_plane.SizeBasedBufferingClosableOutputStream, "maybe_flush"),
    )
    for place, name in kept:
        monkeypatch.setattr(place, name, copy.copy(getattr(place, name)))
    limit_worker_memory()


def test_a_worker_does_not_widen_its_window(limited_memory):
    with mock.patch.object(grpc, "insecure_channel", side_effect=grpc.insecure_channel) as channel:
        data_plane.GrpcClientDataChannelFactory().create_data_channel_from_url("localhost:1").close()
    options = dict(channel.call_args.kwargs["options"])
    assert options["grpc.http2.bdp_probe"] == 0 and options["grpc.max_receive_message_length"] == -1


@pytest.mark.slow
def test_a_worker_lets_go_of_a_step_that_is_done(limited_memory):
    gone = threading.Event()
    cache = sdk_worker.BundleProcessorCache(frozenset(), None, None, {})
    cache.active_bundle_processors["done"] = ("step", mock.Mock(shutdown=gone.set))
    cache.release("done")
    assert gone.wait(30)  # Beam itself waits for a minute
    cache.shutdown()


def test_a_worker_sends_messages_of_4_mb(limited_memory):
    channel = data_plane._GrpcDataChannel()
    stream = channel.output_stream("instruction", "step")
    for _ in range(10_000):
        stream.write(b"x" * 1000)
        stream.maybe_flush()
    stream.close()
    channel.close()
    sizes = [[len(data.data) for data in message.data] for message in channel._write_outputs()]
    assert [sum(each) for each in sizes if any(each)] == [4_195_000, 4_195_000, 1_610_000]
