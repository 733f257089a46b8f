"""Published tables: what is wrong is named by file and line; sessions are cut where they should be."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psad_tf.datasets.tables import cut_sessions, number, read_table
from psad_tf.errors import InputError


def _table(tmp_path: pathlib.Path, content: bytes) -> pathlib.Path:
    (tmp_path / "t.csv").write_bytes(content)
    return tmp_path / "t.csv"


def test_rows_come_with_their_place(tmp_path: pathlib.Path) -> None:
    path = _table(tmp_path, b'a,b\n1,"x,y"\n\n2,z\n')
    assert list(read_table(path, ("a",))) == [
        (f"{path}:2", {"a": "1", "b": "x,y"}),
        (f"{path}:4", {"a": "2", "b": "z"}),
    ]


def test_unquoted_tables_keep_their_quotes(tmp_path: pathlib.Path) -> None:
    path = _table(tmp_path, b'a\tb\n1\t"half\n2\t\n')
    rows = [row for _, row in read_table(path, ("b",), delimiter="\t", quoted=False)]
    assert rows == [{"a": "1", "b": '"half'}, {"a": "2", "b": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", r"t\.csv: no column c \(it has a, b\)"),
        (b"", r"t\.csv: no column c \(it has none\)"),
        (b"c,b\n1,2\n1\n", r"t\.csv:3: 1 fields, expected 2"),
        (b"c,b\n1,\xff\n", r"t\.csv: cannot be read as a table"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_table(_table(tmp_path, content), ("c",)))


def test_a_missing_table_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        list(read_table(tmp_path / "nowhere.csv", ()))


@pytest.mark.parametrize("text", ["", "x", "nan", "inf"])
def test_text_that_is_no_finite_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"f:3: a: '.*' is not a number"):
        number({"a": text}, "a", "f:3")


@given(
    steps=st.lists(st.integers(0, 100), max_size=50),
    gap=st.integers(0, 100),
    longest=st.integers(1, 10),
)
def test_sessions_cover_all_events_and_end_only_where_they_must(
    steps: list[int], gap: int, longest: int
) -> None:
    times = [sum(steps[: index + 1]) for index in range(len(steps))]
    spans = cut_sessions(times, gap, longest)
    assert [index for start, stop in spans for index in range(start, stop)] == list(range(len(times)))
    for start, stop in spans:
        assert 1 <= stop - start <= longest
        assert all(times[index] - times[index - 1] <= gap for index in range(start + 1, stop))
        if stop < len(times):
            assert times[stop] - times[stop - 1] > gap or stop - start == longest
