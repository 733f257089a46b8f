"""Cuts each user's interactions into lists: the protocol for data sets of ratings.

Most users of such data rate everything within a day or two, so a split by calendar time would leave
mostly unseen users; the split is made inside each user instead.
"""

from __future__ import annotations

import dataclasses

from psad_tf.errors import InputError
from psad_tf.features import SPLITS

_TRAIN, _VALID, _TEST = SPLITS


@dataclasses.dataclass(frozen=True)
class WindowRules:
    """The protocol's numbers.

    Args:
        upstream_percent: Share of a user's first interactions that train the upstream stage, rounded down.
        min_upstream: At least so many train it.
        length: Interactions of a window.
        min_length: A leftover of at least so many makes a short window.
        held_out: Share of a user's windows in each held-out split, rounded half to even.
        overlap_stride: Interactions between the starts of the additional, overlapping training windows;
            0 makes none.
    """

    upstream_percent: int = 30
    min_upstream: int = 10
    length: int = 20
    min_length: int = 10
    held_out: float = 0.15
    overlap_stride: int = 0

    def __post_init__(self) -> None:
        if self.overlap_stride < 0:
            raise InputError(f"overlap_stride: must be 0 or more, got {self.overlap_stride}")


@dataclasses.dataclass(frozen=True)
class Window:
    """Interactions `start` to `stop` (exclusive) of one user, as one list.

    Args:
        start: Index of the first interaction.
        stop: One past the last.
        split: `train`, `valid` or `test`.
        overlapping: An additional training window.
    """

    start: int
    stop: int
    split: str
    overlapping: bool = False


@dataclasses.dataclass(frozen=True)
class UserWindows:
    """One user's share of each part.

    Args:
        upstream: Interactions before this index train the upstream stage.
        held_out: Interactions from this index on are in validation or test windows.
        windows: In time order; the overlapping ones last.
    """

    upstream: int
    held_out: int
    windows: tuple[Window, ...]


def cut_windows(count: int, rules: WindowRules | None = None) -> UserWindows:
    """Cuts one user's `count` interactions, which stand in time order.

    The first `upstream_percent` % (at least `min_upstream`) train the upstream stage. The rest is cut,
    counting from the end, into windows of `length`; a leftover of `min_length` or more makes a short one.
    Of W windows, the last max(1, round(held_out * W)) are test if W >= 2; the same number before them,
    if W >= 3, are validation; the others are training. Overlapping windows start every `overlap_stride`
    interactions after the upstream part and end before the first held-out window.

    Example:
        >>> [(w.start, w.stop, w.split) for w in cut_windows(100).windows]
        [(30, 40, 'train'), (40, 60, 'train'), (60, 80, 'valid'), (80, 100, 'test')]
    """
    rules = rules or WindowRules()
    upstream = min(count, max(rules.min_upstream, count * rules.upstream_percent // 100))
    spans: list[tuple[int, int]] = []
    stop = count
    while stop - upstream >= rules.length:
        spans.append((stop - rules.length, stop))
        stop -= rules.length
    if stop - upstream >= rules.min_length:
        spans.append((upstream, stop))
    spans.reverse()
    share = max(1, round(rules.held_out * len(spans)))
    tests = share if len(spans) >= 2 else 0
    valids = share if len(spans) >= 3 else 0
    trains = len(spans) - tests - valids
    splits = [_TRAIN] * trains + [_VALID] * valids + [_TEST] * tests
    windows = [Window(*span, split) for span, split in zip(spans, splits, strict=True)]
    held_out = spans[trains][0] if trains < len(spans) else count
    if rules.overlap_stride:
        starts = range(upstream, held_out - rules.length + 1, rules.overlap_stride)
        overlapping = ((start, start + rules.length) for start in starts)
        windows += [Window(*span, _TRAIN, True) for span in overlapping if span not in spans]
    return UserWindows(upstream, held_out, tuple(windows))
