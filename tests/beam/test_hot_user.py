"""A million interactions of one user cost time, not memory, where the engine gives values one by one."""

import concurrent.futures
import multiprocessing
import pathlib
import re

import pytest

from psad_tf.beam.options import PreprocessOptions
from psad_tf.beam.transforms.check import INTERACTION, ImpressionCheck
from psad_tf.beam.transforms.sort_values import sorted_values
from psad_tf.beam.transforms.timeline import Joined, _JoinHistories
from psad_tf.data.encode_record import RecordEncoder
from tests.beam import logs
from tests.beam.logs import DECLARATION

MANY = 1_000_000
OPTIONS = PreprocessOptions(latest_time=logs.START * 2)
ENCODER = RecordEncoder(DECLARATION)


def _values():
    """The user's requests and interactions, in no order of time, one after the other."""
    check = ImpressionCheck(DECLARATION, OPTIONS)
    for number in range(1, 21):
        data = logs.impression(number, 0, logs.START + MANY * number // 20, [1, 2])
        yield check.take(data, "log", {})[1]
    for number in range(MANY):
        second = number * 7919 % MANY
        value = ENCODER.interaction(logs.START + second, f"item-{second}", {"rating": 3})
        yield value[:8] + INTERACTION + value[8:]


def _joined(buffer_bytes):
    """The history of each request by its second, and the MiB by which the process grew."""
    join = _JoinHistories(DECLARATION, OPTIONS)
    join.setup()
    join.start_bundle()
    before = _memory("VmRSS")
    found = {}
    for _, value in join.process((b"user-0", sorted_values(_values(), buffer_bytes))):
        joined = Joined.of(value)
        time = int.from_bytes(joined.request.time, "big")
        found[time - logs.START] = [ENCODER.past_item(each) for each in joined.history]
    return found, _memory("VmHWM") - before


def _memory(name):
    """MiB of this process. (`getrusage` tells a parent's peak as that of a process that it starts.)"""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


@pytest.mark.slow
def test_a_user_with_a_million_interactions_does_not_sink_a_worker():
    spawn = multiprocessing.get_context("spawn")  # a process without memory that is free already
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
        found, grown = process.submit(_joined, 8 << 20).result()
    assert found == {
        time: [f"item-{time - back}" for back in range(DECLARATION.history.length, 0, -1)]
        for time in (MANY * number // 20 for number in range(1, 21))
    }
    # Held all at once the million takes 75 MiB.
    assert grown < 24, f"{grown:.0f} MiB"
