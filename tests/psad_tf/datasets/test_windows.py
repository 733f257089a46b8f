"""The protocol that cuts a user's interactions into lists."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psad_tf.datasets.windows import WindowRules, cut_windows
from psad_tf.errors import InputError


def _plain(count: int, stride: int = 0) -> list[tuple[int, int, str]]:
    cut = cut_windows(count, WindowRules(overlap_stride=stride))
    return [(window.start, window.stop, window.split) for window in cut.windows]


def test_a_leftover_of_ten_makes_a_short_list_and_one_of_nine_none() -> None:
    assert _plain(100)[0] == (30, 40, "train")
    assert _plain(98)[0] == (38, 58, "train")  # 29 upstream, 9 left over


def test_one_window_is_training_two_add_a_test_three_a_validation() -> None:
    assert [split for *_, split in _plain(30)] == ["train"]
    assert [split for *_, split in _plain(57)] == ["train", "test"]
    assert [split for *_, split in _plain(86)] == ["train", "valid", "test"]


def test_a_user_of_many_windows_holds_out_fifteen_percent_twice() -> None:
    splits = [split for *_, split in _plain(572)]  # 171 upstream, 20 windows
    assert (splits.count("train"), splits.count("valid"), splits.count("test")) == (14, 3, 3)
    assert splits == sorted(splits, key=["train", "valid", "test"].index)


def test_the_upstream_part_has_at_least_ten() -> None:
    assert cut_windows(20).upstream == 10
    assert cut_windows(8).upstream == 8
    assert cut_windows(8).windows == ()


@given(count=st.integers(0, 800), stride=st.integers(1, 25))
def test_overlapping_windows_touch_neither_the_upstream_nor_a_held_out_part(count: int, stride: int) -> None:
    cut = cut_windows(count, WindowRules(overlap_stride=stride))
    held_out = {
        index
        for window in cut.windows
        if window.split != "train"
        for index in range(window.start, window.stop)
    }
    assert held_out == set(range(cut.held_out, count))
    for window in cut.windows:
        if window.split == "train":
            assert cut.upstream <= window.start < window.stop <= cut.held_out
    spans = [(window.start, window.stop) for window in cut.windows]
    assert len(spans) == len(set(spans))


@given(count=st.integers(0, 800))
def test_windows_of_the_protocol_do_not_overlap_and_reach_the_end(count: int) -> None:
    windows = cut_windows(count).windows
    for earlier, later in itertools.pairwise(windows):
        assert earlier.stop == later.start
    if windows:
        assert windows[-1].stop == count
        assert all(window.stop - window.start == 20 for window in windows[1:])


def test_a_negative_stride_is_refused() -> None:
    with pytest.raises(InputError, match="overlap_stride"):
        WindowRules(overlap_stride=-1)
