"""What the Beam job may be told: frozen, checked once, passed whole."""

from __future__ import annotations

import dataclasses
import time
import zoneinfo
from typing import Literal

from psad_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class SplitPolicy:
    """Which lists train, validate and test.

    A record's own `split` always decides. The other lists are split by time: from the moment `test_from` on
    they are test lists, before it and from `valid_from` on they validate, before that they train.

    Args:
        valid_fraction: Share of the lists, by request time, that validate, where no moments are given.
        test_fraction: Share that tests, the latest.
        valid_from: Seconds since 1970 UTC; replaces the fractions, together with `test_from`.
        test_from: Seconds since 1970 UTC.
    """

    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    valid_from: int | None = None
    test_from: int | None = None

    def __post_init__(self) -> None:
        if (self.valid_from is None) != (self.test_from is None):
            raise InputError("split: give both valid_from and test_from, or neither")
        if self.valid_from is not None and self.test_from is not None and self.valid_from > self.test_from:
            raise InputError(f"split: valid_from {self.valid_from} is later than test_from {self.test_from}")
        for name in ("valid_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"split: {name} must be in [0, 1), got {value}")
        if self.valid_fraction + self.test_fraction >= 1:
            raise InputError("split: valid_fraction and test_fraction leave nothing to train on")


@dataclasses.dataclass(frozen=True)
class PreprocessOptions:
    """Everything the job may be told beside its inputs, its output and the feature declaration.

    Args:
        split: Which lists train, validate and test.
        num_shards: Files a split, and the most workers that write lists. A shard is sorted as a whole: give
            about one for each 10 to 20 MB of raw logs.
        vocabulary_min_count: A value seen less often in training lists is left to "out of vocabulary".
        max_vocabulary_size: Values that a vocabulary keeps, the most frequent.
        long_lists: `drop` makes a list longer than the declaration's `max_candidates` a dead letter,
            `truncate` keeps its best candidates of the initial ranker.
        min_candidates: A shorter list is a dead letter.
        session_gap_seconds: In logs without request ids, a pause of more than this starts a new list.
        latest_time: Seconds; a later record is a dead letter. None means the moment the job starts.
        time_zone: Of ISO 8601 times that name none, as `UTC` or `Europe/Berlin`; "" makes them dead letters.
        max_dropped: Largest share of the records of a kind that may be dead letters; copies of a record that
            was kept do not count. More fails the job.
        compression_level: Of the gzip files, 1 (fast) to 3 (small), as ISA-L counts.
        buffer_bytes: Memory for sorting the values of one key; more are sorted on local disk.
        side_input_bytes: Item files of more bytes than this are joined by a shuffle instead of being held by
            each worker.
    """

    split: SplitPolicy = SplitPolicy()
    num_shards: int = 4
    vocabulary_min_count: int = 1
    max_vocabulary_size: int = 1_000_000
    long_lists: Literal["drop", "truncate"] = "drop"
    min_candidates: int = 1
    session_gap_seconds: int = 1800
    latest_time: int | None = None
    time_zone: str = ""
    max_dropped: float = 0.01
    compression_level: int = 1
    buffer_bytes: int = 48 << 20
    side_input_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, min_value, max_value in (
            ("num_shards", 1, 99_999),
            ("vocabulary_min_count", 1, None),
            ("max_vocabulary_size", 1, None),
            ("min_candidates", 1, None),
            ("session_gap_seconds", 1, None),
            ("buffer_bytes", 1, None),
            ("compression_level", 1, 3),
            ("max_dropped", 0, 1),
        ):
            value = getattr(self, name)
            if not min_value <= value <= (value if max_value is None else max_value):
                bounds = f"at least {min_value}" if max_value is None else f"{min_value} to {max_value}"
                raise InputError(f"{name}: must be {bounds}, got {value}")
        if self.time_zone:
            try:
                zoneinfo.ZoneInfo(self.time_zone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError):
                raise InputError(f"time_zone: {self.time_zone!r} is no time zone's name") from None
        if self.long_lists not in ("drop", "truncate"):
            raise InputError(f"long_lists: {self.long_lists!r} is not 'drop' or 'truncate'")

    def with_latest_time(self) -> PreprocessOptions:
        """The same with `latest_time` set to now where it is None."""
        if self.latest_time is not None:
            return self
        return dataclasses.replace(self, latest_time=int(time.time()))
