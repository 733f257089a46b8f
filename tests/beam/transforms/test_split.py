import random

import pytest

from psad_tf.beam.options import PreprocessOptions, SplitPolicy
from psad_tf.beam.transforms.check import ImpressionCheck
from psad_tf.beam.transforms.split import NEVER, FindSplitPoints
from psad_tf.errors import InputError
from tests.beam import logs
from tests.beam.logs import DECLARATION

CHECK = ImpressionCheck(DECLARATION, PreprocessOptions(latest_time=logs.START))


def _points(folder, times, policy, copies=(), **changes):
    """The split points of requests at these times; of those in `copies` there are later copies too."""
    sent = []
    for number, time in enumerate(times):
        for later in (0, 1000) if number in copies else (0,):
            data = {**logs.impression(number, 1, time + later, [1]), **changes}
            sent.append(CHECK.take(data, "log", {}))
    random.Random(0).shuffle(sent)
    (points,) = logs.outputs(FindSplitPoints(policy), folder, sent).elements[""] or [None]
    return points


def test_fractions_cut_the_lists_in_the_order_of_time(tmp_path):
    points = _points(tmp_path, range(100, 0, -1), SplitPolicy(0.1, 0.2))
    splits = [points.split(time) for time in range(1, 101)]
    assert splits == ["train"] * 70 + ["valid"] * 10 + ["test"] * 20


@pytest.mark.parametrize("seed", range(3))
def test_the_points_are_those_of_all_times_in_order(tmp_path, seed):
    draw = random.Random(seed)
    times = [draw.choice((draw.randrange(60), draw.randrange(10**6))) for _ in range(400)]
    valid, test = draw.choice((0.0, 0.1, 0.25)), draw.choice((0.0, 0.2, 0.6))
    ordered = [*sorted(times), NEVER]  # a share of nothing starts after the last
    wanted = ordered[round(400 * (1 - valid - test))], ordered[round(400 * (1 - test))]
    assert _points(tmp_path, times, SplitPolicy(valid, test)) == wanted


def test_lists_of_one_second_stay_together(tmp_path):
    points = _points(tmp_path, [1, 2, 2, 2, 2, 2, 2, 3], SplitPolicy(0.25, 0.25))
    assert [points.split(time) for time in (1, 2, 3)] == ["train", "test", "test"]


def test_a_share_of_nothing_takes_no_list(tmp_path):
    points = _points(tmp_path, [5, 6, 7], SplitPolicy(0.0, 0.0))
    assert {points.split(time) for time in (5, 6, 7)} == {"train"}


def test_moments_are_taken_as_they_are(tmp_path):
    assert _points(tmp_path, [1, 2, 3], SplitPolicy(valid_from=10, test_from=20)) == (10, 20)


def test_a_request_counts_once_at_its_earliest_time(tmp_path):
    points = _points(tmp_path, range(10), SplitPolicy(0.1, 0.1), copies=(0, 1, 2, 3))
    assert points == (8, 9)


def test_lists_with_a_split_of_their_own_decide_nothing(tmp_path):
    assert _points(tmp_path, range(10), SplitPolicy(0.1, 0.1), split="train") is None


@pytest.mark.parametrize(
    "wrong",
    [{"valid_from": 3}, {"valid_from": 3, "test_from": 2}, {"valid_fraction": -0.1}, {"test_fraction": 0.95}],
)
def test_a_policy_that_cannot_be_followed_is_refused(wrong):
    with pytest.raises(InputError, match="split:"):
        SplitPolicy(**wrong)
