"""The list of a version's files: written by the exporter last, checked by the server first."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator

from psad_tf.files import write_json
from psad_tf.serving.contract import FILES_LIST

Fingerprint = tuple[tuple[str, int, int], ...]


class FilesError(Exception):
    """A version whose files are not those that were exported; the message is one line."""


def fingerprint(path: str) -> Fingerprint:
    """Names, sizes and times of a version's files: changes while the folder is being copied."""
    return tuple(sorted(_files(path)))


def _files(path: str) -> Iterator[tuple[str, int, int]]:
    for folder, _, names in os.walk(path):
        for name in names:
            full = os.path.join(folder, name)
            try:
                facts = os.stat(full)
            except OSError:
                continue
            yield os.path.relpath(full, path), facts.st_size, facts.st_mtime_ns


def has_files_list(path: str) -> bool:
    """Whether the version lists its files, so that a half-copied one is known at once."""
    return os.path.isfile(os.path.join(path, FILES_LIST))


def verify_files(path: str) -> None:
    """Compares a version's files with `assets.extra/files.json`, where it has one.

    Raises:
        FilesError: A file is missing or differs, or the list itself cannot be read.
    """
    if not has_files_list(path):
        return
    try:
        with open(os.path.join(path, FILES_LIST), encoding="utf-8") as file:
            listed = [(name, facts["bytes"], facts["sha256"]) for name, facts in json.load(file).items()]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise FilesError(f"{FILES_LIST} is not a list of files") from None
    for name, size, sha256 in listed:
        full = os.path.join(path, name)
        try:
            found = os.path.getsize(full)
        except OSError:
            raise FilesError(f"{name} is missing") from None
        if found != size:
            raise FilesError(f"{name} has {found} bytes, {size} are listed")
        if file_sha256(full) != sha256:
            raise FilesError(f"{name} is not the file that was exported (its hash differs)")


def write_files_list(path: str) -> None:
    """Writes `assets.extra/files.json`: size and SHA-256 of every file of a version."""
    listed = {
        name: {"bytes": size, "sha256": file_sha256(os.path.join(path, name))}
        for name, size, _ in fingerprint(path)
        if name != FILES_LIST
    }
    write_json(os.path.join(path, FILES_LIST), listed)


def file_sha256(path: str) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
