"""Output files: written aside, hashed as they are written, renamed at the end of the job."""

from __future__ import annotations

import contextlib
import hashlib
import types
import uuid
from typing import Any, BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from isal import igzip

from psad_tf.beam.compat import write_tfrecord

PARTS = ".parts"


def create(path: str) -> BinaryIO:
    """Opens a new file for writing on any Beam file system, without compression by its name."""
    return FileSystems.create(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading, the same way."""
    return FileSystems.open(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)


def write_file(path: str, data: bytes) -> None:
    """Writes a whole file."""
    with contextlib.closing(create(path)) as file:
        file.write(data)


def read_file(path: str) -> bytes:
    """Reads a whole file."""
    with contextlib.closing(open_file(path)) as file:
        return file.read()


class OutputFile:
    """A file of the output folder, open for writing.

    It is written as `<folder>/.parts/<name with - for />.<unique>`; `psad_tf`'s readers never look there, and
    a try that failed leaves only such a file. The end of the job renames the ones that count.

    Beam's `WriteToTFRecord` deals records to its files round robin from a random start, in the order in which
    they arrive: no two runs would write the same files, and every serialized list, larger than its record,
    would go through one more shuffle. So the job's steps, which know file and order, write their files here,
    with Beam's framing of records and its file systems.

    Args:
        folder: The output folder, on any Beam file system.
        name: Path of the file inside it, as it will be called.
        gzip_level: 1 to 3 for gzip by ISA-L, 0 for none.
    """

    def __init__(self, folder: str, name: str, gzip_level: int = 0) -> None:
        self.name = name
        self.records = 0
        self._part = f"{name.replace('/', '-')}.{uuid.uuid4().hex}"
        self._raw = create(FileSystems.join(folder, PARTS, self._part))
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        sink: Any = types.SimpleNamespace(write=self._put, close=lambda: None)
        # Neither name nor time, so that the same records give the same bytes.
        self._file = igzip.IGzipFile("", "wb", gzip_level, sink, mtime=0) if gzip_level else sink

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.closing(self._raw):
            if kind is None:
                self._file.close()

    def write(self, record: bytes) -> None:
        """Writes the bytes of one record."""
        self.records += 1
        self._file.write(record)

    def write_tfrecord(self, record: bytes) -> None:
        """Writes one record in the frame of a TFRecord."""
        write_tfrecord(self, record)

    def info(self) -> dict[str, Any]:
        """What the manifest says of the closed file: sha256, bytes, records; with its name and part."""
        return {
            "name": self.name,
            "part": self._part,
            "sha256": self._sha256.hexdigest(),
            "bytes": self._bytes,
            "records": self.records,
        }

    def _put(self, data: bytes) -> None:
        self._raw.write(data)
        self._sha256.update(data)
        self._bytes += len(data)
