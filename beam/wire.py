"""tf.Example and ExampleListWithContext as bytes, without building message objects.

Building the messages attribute by attribute is the slowest part of a plain writer, and most of a list's bytes
are the same from list to list: an item's attributes, a feature's name. Here they are encoded once and joined.
The numbers below are the field numbers of tensorflow/core/example/{example,feature}.proto and
tensorflow_serving/apis/input.proto; a test parses the bytes with those protos.
"""

from __future__ import annotations

from collections.abc import Iterable

# A field's tag is its number times eight plus 2, the wire type of a length and its bytes.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"


def varint(number: int) -> bytes:
    """A whole number, seven bits a byte, low bits first.

    Example:
        >>> varint(300).hex()
        'ac02'
    """
    if 0 <= number < _READY:
        return _VARINTS[number]
    return _encode_varint(number)


def _encode_varint(number: int) -> bytes:
    if number < 0:
        number += 1 << 64
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_READY = 1 << 14
_VARINTS = [_encode_varint(number) for number in range(_READY)]


def sized(tag: bytes, data: bytes) -> bytes:
    """A field of a length and its bytes."""
    return tag + varint(len(data)) + data


def byte_values(values: Iterable[bytes]) -> bytes:
    """The values of a BytesList; several results may be joined."""
    return b"".join([sized(_FIRST, value) for value in values])


def bytes_entry(name: str, values: bytes) -> bytes:
    """A feature of byte strings, an entry of an Example's map; `values` as `byte_values` gives them."""
    return _entry(name, sized(_FIRST, values))


def floats_entry(name: str, packed: bytes) -> bytes:
    """A feature of 32-bit floats, an entry of an Example's map; `packed` little-endian."""
    return _entry(name, sized(_SECOND, sized(_FIRST, packed)))


def int_entry(name: str, value: int) -> bytes:
    """A feature of one int64, an entry of an Example's map."""
    return _entry(name, sized(_THIRD, sized(_FIRST, varint(value))))


def float_prefix(name: str) -> bytes:
    """What stands before the four bytes of a feature of one float."""
    return floats_entry(name, b"\0\0\0\0")[:-4]


def example(entries: bytes) -> bytes:
    """A tf.Example of joined entries."""
    return sized(_FIRST, entries)


def list_with_context(context: bytes, candidates: Iterable[tuple[bytes, ...]]) -> bytes:
    """An ExampleListWithContext of a context Example and, for each candidate, the entries of its Example."""
    parts: list[bytes] = []
    for entries in candidates:
        length = sum(map(len, entries))
        size = varint(length)
        parts += (_FIRST, varint(1 + len(size) + length), _FIRST, size)
        parts += entries
    parts.append(sized(_SECOND, context))
    return b"".join(parts)


def _entry(name: str, feature: bytes) -> bytes:
    return sized(_FIRST, sized(_FIRST, name.encode()) + sized(_SECOND, feature))
