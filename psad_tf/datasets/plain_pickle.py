"""Reads pickles of plain data without running what is in them.

`pickle.load` calls any function that the file names. Here only numpy's own constructors of arrays,
scalars and dtypes may be named; everything else (numbers, strings, lists, tuples, dicts) needs no name.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

from psad_tf.errors import InputError

# `numpy._core` is numpy 2's name for `numpy.core`; `_codecs.encode` carries bytes in old protocols.
_ADMITTED = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }
)


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that refuses to find anything but numpy's constructors."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not plain data")
        return super().find_class(module.replace("numpy._core", "numpy.core"), name)


def load_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Reads one object of numbers, strings, lists, tuples, dicts and numpy arrays.

    Raises:
        InputError: The file is missing, is not a pickle, is cut short, or names anything else.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(f"{name}: cannot be read as a plain pickle ({error or 'cut short'})") from None
    except (AttributeError, ImportError, MemoryError, OverflowError) as error:
        raise InputError(f"{name}: cannot be read as a plain pickle ({type(error).__name__})") from None
