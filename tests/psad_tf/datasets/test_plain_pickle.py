"""A pickle is data here: nothing that it names is run."""

from __future__ import annotations

import os
import pathlib
import pickle

import numpy as np
import pytest

from psad_tf.datasets.plain_pickle import load_plain_pickle
from psad_tf.errors import InputError

PLAIN = {"a": [1, 2.5, None, True, b"x", ("y", {})], "z": [[]]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_come_back(tmp_path: pathlib.Path, protocol: int) -> None:
    path = tmp_path / "p.pkl"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(pickle.dumps([PLAIN, array, np.int64(3)], protocol=protocol))
    plain, read, scalar = load_plain_pickle(path)
    assert plain == PLAIN and scalar == 3
    np.testing.assert_array_equal(read, array)


class _Attack:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_named_function_is_refused_and_not_run(
    tmp_path: pathlib.Path, protocol: int, wrapped: bool
) -> None:
    target = tmp_path / "made"
    attack = _Attack(str(target))
    content = np.array([attack, 1], dtype=object) if wrapped else [attack]
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(InputError, match=r"p\.pkl: .*mkdir, which is not plain data"):
        load_plain_pickle(tmp_path / "p.pkl")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(PLAIN)[:-5], b"\x80\x7f."])
def test_a_broken_file_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "p.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"p\.pkl: cannot be read as a plain pickle"):
        load_plain_pickle(tmp_path / "p.pkl")


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_plain_pickle(tmp_path / "nothing.pkl")
