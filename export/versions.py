"""Numbers of a model's versions: the next one, and claiming one so that no other export takes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from psad_tf.errors import InputError


def next_version(folder: str) -> int:
    """One more than the highest version in a model's folder; 1 if there is none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 1
    return max((int(name) for name in names if name.isdecimal()), default=0) + 1


@contextlib.contextmanager
def claimed_version(folder: str, version: int | None = None) -> Iterator[int]:
    """Claims a version's number for the length of the block; of several exports at once each has its own.

    The claim is a folder `.<version>.claim`, since making a folder succeeds for one of all who try.

    Args:
        folder: The model's folder; made if missing.
        version: The number wanted; None takes the next that is neither there nor claimed.

    Raises:
        InputError: The number wanted is there, or claimed.
    """
    number = next_version(folder) if version is None else version
    os.makedirs(folder, exist_ok=True)
    while True:
        claim = os.path.join(folder, f".{number}.claim")
        path = os.path.join(folder, str(number))
        try:
            os.mkdir(claim)
        except FileExistsError:
            if version is not None:
                raise InputError(
                    f"{path}: another export writes version {number} (if none does, one was killed: remove "
                    f"{claim})"
                ) from None
            number += 1
            continue
        try:
            if not os.path.lexists(path):
                yield number
                return
            if version is not None:
                raise InputError(f"{path}: version {number} is already there; versions are never overwritten")
            number += 1
        finally:
            os.rmdir(claim)
