"""Writing outputs so that a later step never takes a half-written one for whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator

from psad_tf.errors import InputError


@contextlib.contextmanager
def replaced_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """Gives a new folder to write in, and renames it to `path` when the block ends well.

    An existing `path` is replaced only then; when the block raises, it is left as it was and the new
    folder is removed.

    Raises:
        InputError: The folder cannot be made, or the disk is full.
    """
    target = os.path.abspath(os.fspath(path))
    unique = uuid.uuid4().hex[:8]
    temporary = f"{target}.tmp-{unique}"
    with _explained(os.fspath(path)):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.mkdir(temporary)
        try:
            yield temporary
            if os.path.lexists(target):
                old = f"{target}.old-{unique}"
                os.rename(target, old)
                os.rename(temporary, target)
                shutil.rmtree(old)
            else:
                os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


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


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turns an output folder's own troubles into an `InputError`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{path}: the disk is full") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{path}: cannot be written ({os.strerror(error.errno)})") from error
        raise
