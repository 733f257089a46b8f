import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from psad_tf.beam.options import SplitPolicy
from psad_tf.beam.transforms.split import FindSplitPoints, TimeCounter, find_split_points
from psad_tf.errors import InputError
from tests.beam import logs


def _points(folder, times, policy):
    counter = TimeCounter(str(folder))
    for time in times:
        counter.add(time)
    return find_split_points(policy, [run for _, _, run in counter.close()])


def test_fractions_cut_the_lists_in_the_order_of_time(tmp_path):
    points = _points(tmp_path, range(100, 0, -1), SplitPolicy(0.1, 0.2))
    splits = [points.split(time) for time in range(1, 101)]
    assert splits == ["train"] * 70 + ["valid"] * 10 + ["test"] * 20


def test_lists_of_one_second_stay_together(tmp_path):
    points = _points(tmp_path, [1, 2, 2, 2, 2, 2, 2, 3], SplitPolicy(0.25, 0.25))
    assert [points.split(time) for time in (1, 2, 3)] == ["train", "test", "test"]


def test_a_share_of_nothing_takes_no_list(tmp_path):
    points = _points(tmp_path, [5, 6, 7], SplitPolicy(0.0, 0.0))
    assert {points.split(time) for time in (5, 6, 7)} == {"train"}


def test_moments_are_taken_as_they_are(tmp_path):
    points = _points(tmp_path, [1, 2, 3], SplitPolicy(valid_from=10, test_from=20))
    assert points == (10, 20)


def test_counts_of_several_workers_are_added_up_and_every_partition_is_told(tmp_path):
    counters = [TimeCounter(str(tmp_path)) for _ in range(2)]
    for time in range(10):
        counters[time % 2].add(time)
    sent = [message for counter in counters for message in counter.close()]
    with logs.pipeline() as pipeline:
        found = pipeline | beam.Create(sent) | FindSplitPoints(SplitPolicy(0.1, 0.1), 3)
        points = found | beam.Filter(lambda message: message[0] == "split_points")
        assert_that(points, equal_to([("split_points", partition, (8, 9)) for partition in range(3)]))


@pytest.mark.parametrize(
    "wrong",
    [{"valid_from": 3}, {"valid_from": 3, "test_from": 2}, {"valid_fraction": -0.1}, {"test_fraction": 0.95}],
)
def test_a_policy_that_cannot_be_followed_is_refused(wrong):
    with pytest.raises(InputError, match="split:"):
        SplitPolicy(**wrong)
