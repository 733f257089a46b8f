"""Output files: written aside, hashed as they are written, renamed at the end of the job."""

from __future__ import annotations

import hashlib
import struct
import uuid
import zlib
from types import TracebackType
from typing import Any

from apache_beam.io.filesystems import FileSystems

from psad_tf.beam.crc32c import crc32c
from psad_tf.beam.sorted_runs import create

# A gzip member without name and time, so that the same records give the same bytes.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LENGTH = struct.Struct("<Q")
_CHECK = struct.Struct("<I")


class OutputFile:
    """A file of the output folder, open for writing.

    It is written as `<folder>/.parts/<name with - for />.<unique>`; `psad_tf`'s readers never look there, and
    a try that failed leaves only such a file. The end of the job renames the ones that count.

    Args:
        folder: The output folder, on any Beam file system.
        name: Path of the file inside it, as it will be called.
        gzip_level: 1 to 9 for gzip, 0 for none.
    """

    def __init__(self, folder: str, name: str, gzip_level: int = 0) -> None:
        self.name = name
        self.records = 0
        self._part = f"{name.replace('/', '-')}.{uuid.uuid4().hex}"
        self._file = create(FileSystems.join(folder, PARTS, self._part))
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self._check = 0
        self._plain_bytes = 0
        self._deflate = None
        if gzip_level:
            self._deflate = zlib.compressobj(gzip_level, zlib.DEFLATED, -zlib.MAX_WBITS)
            self._put(_GZIP_HEADER)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._deflate is not None:
            self._put(self._deflate.flush())
            self._put(struct.pack("<II", self._check, self._plain_bytes & 0xFFFFFFFF))
        self._file.close()

    def write(self, record: bytes) -> None:
        """Writes the bytes of one record."""
        self.records += 1
        if self._deflate is None:
            self._put(record)
            return
        self._check = zlib.crc32(record, self._check)
        self._plain_bytes += len(record)
        compressed = self._deflate.compress(record)
        if compressed:
            self._put(compressed)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._bytes += len(data)

    def info(self) -> dict[str, Any]:
        """What the manifest says of the closed file: name, part, sha256, bytes, records."""
        return {
            "name": self.name,
            "part": self._part,
            "sha256": self._sha256.hexdigest(),
            "bytes": self._bytes,
            "records": self.records,
        }


PARTS = ".parts"


def tfrecord(data: bytes) -> bytes:
    """Frames a TFRecord: length, masked CRC-32C of the length, data, masked CRC-32C of the data.

    Source: tensorflow/core/lib/io/record_writer.h.
    """
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CHECK.pack(_masked(length)), data, _CHECK.pack(_masked(data))))


def _masked(data: bytes) -> int:
    check = crc32c(data)
    return ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF
