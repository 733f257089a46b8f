"""Outputs appear whole or not at all, and replace nothing that the caller did not write."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from psad_tf.errors import InputError
from psad_tf.files import check_replaceable, replaced_directory, replaced_file


def test_a_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "out"
    with replaced_directory(target) as folder:
        pathlib.Path(folder, "old").write_text("old")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError), replaced_directory(target) as folder:
        pathlib.Path(folder, "new").write_text("new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with replaced_directory(target) as folder:
        pathlib.Path(folder, "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_file(target) as temporary:
        pathlib.Path(temporary).write_text("new")
        raise ZeroDivisionError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with replaced_file(target) as temporary:
        pathlib.Path(temporary).write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("write", [replaced_directory, replaced_file])
@pytest.mark.parametrize("name", ["file/out", "n" * 300])
def test_a_place_that_cannot_be_written_is_named(tmp_path: pathlib.Path, write, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out|nnn") as caught, write(tmp_path / name) as temporary:
        pathlib.Path(temporary).write_text("")
    assert "cannot be written" in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="cannot be written"), replaced_file(tmp_path) as temporary:
        pathlib.Path(temporary).write_text("")


def test_a_disk_that_fills_while_a_folder_is_copied_is_one_line(tmp_path: pathlib.Path) -> None:
    full = [("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]
    with pytest.raises(InputError, match="out: the disk is full"), replaced_directory(tmp_path / "out"):
        raise shutil.Error(full)


def test_an_input_that_is_missing_is_not_called_an_output(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError), replaced_directory(tmp_path / "out"):
        (tmp_path / "input").read_text()
    assert list(tmp_path.iterdir()) == []


def test_only_what_the_caller_can_have_written_is_replaceable(tmp_path: pathlib.Path) -> None:
    check_replaceable(tmp_path / "none", ())
    (tmp_path / "mine").write_text("")
    check_replaceable(tmp_path, ("mine", "other"))
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds 'thesis\.tex'"):
        check_replaceable(tmp_path, ("mine",))
    with pytest.raises(InputError, match="is a file"):
        check_replaceable(tmp_path / "mine", ("mine",))
