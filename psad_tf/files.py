"""Writing outputs so that a later step never takes a half-written one for whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from typing import Any

from psad_tf.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def check_replaceable(path: str | os.PathLike[str], names: Collection[str]) -> None:
    """Refuses to replace what the caller cannot have written.

    Args:
        path: The folder to be replaced; it need not exist.
        names: Every name that a folder written by the caller may hold.

    Raises:
        InputError: `path` is a file, or holds something else.
    """
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise InputError(f"{os.fspath(path)}: is a file; a folder is wanted")
    for name in sorted(os.listdir(path)):
        if name not in names:
            raise InputError(
                f"{os.fspath(path)}: holds {name!r}, which would be removed: name a new folder for the output"
            )


@contextlib.contextmanager
def replaced_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """Gives a new folder to write in, and renames it to `path` when the block ends well.

    An existing `path` is replaced only then; when the block raises, it is left as it was and the new
    folder is removed. `check_replaceable` says beforehand whether it may be.

    Raises:
        InputError: The folder cannot be made, or the disk is full.
    """
    target = os.path.abspath(os.fspath(path))
    temporary = f"{target}.tmp-{uuid.uuid4().hex[:8]}"
    with _explained(os.fspath(path)):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.mkdir(temporary)
        try:
            yield temporary
            put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(folder: str, path: str) -> None:
    """Renames a whole folder to `path`; an older one there is removed once the new one has its name."""
    if not os.path.lexists(path):
        os.rename(folder, path)
        return
    old = f"{path}.old-{uuid.uuid4().hex[:8]}"
    os.rename(path, old)
    os.rename(folder, path)
    shutil.rmtree(old)


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """The same for one file: gives a temporary name beside `path`, renamed to it when the block ends well."""
    target = os.path.abspath(os.fspath(path))
    temporary = f"{target}.tmp-{uuid.uuid4().hex[:8]}"
    with _explained(os.fspath(path)):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes indented JSON aside and renames it."""
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns an output folder's own troubles into an `InputError`; errors about other files pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or (isinstance(error, shutil.Error) and _says_full(error)):
            raise InputError(f"{path}: the disk is full") from error
        if error.errno in _UNWRITABLE and _within(error.filename, path):
            raise InputError(f"{path}: cannot be written ({os.strerror(error.errno)})") from error
        raise


def _says_full(error: shutil.Error) -> bool:
    """Whether `shutil.copytree` stopped at a full disk; it keeps the messages only."""
    return any(f"[Errno {number}]" in str(error) for number in _FULL)


def _within(name: str | bytes | None, path: str) -> bool:
    """Whether a failed operation was on the output, its temporary name or a folder above it."""
    if not isinstance(name, str):
        return False
    target, failed = os.path.abspath(path), os.path.abspath(name)
    return failed.startswith(target) or target.startswith(failed)
