"""CRC-32C (Castagnoli), the checksum of TFRecords.

With the `google-crc32c` package it is computed in C. Without it, with NumPy: a CRC is linear over GF(2),
so the CRC of a block is the exclusive or of one table entry for each byte, chosen by the byte's value
and its distance from the end of the block, and the entries of all bytes are gathered at once.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_BLOCK = 512


def crc32c_numpy(data: bytes) -> int:
    """CRC-32C of `data`.

    Example:
        >>> hex(crc32c_numpy(b"123456789"))
        '0xe3069283'
    """
    table, shift = _tables()
    state = 0xFFFFFFFF
    for start in range(0, len(data), _BLOCK):
        block = np.frombuffer(data, np.uint8, min(_BLOCK, len(data) - start), start)
        distance = len(block)
        gathered = np.bitwise_xor.reduce(table[np.arange(distance - 1, -1, -1), block])
        state = _shifted(state, distance, shift) ^ int(gathered)
    return state ^ 0xFFFFFFFF


def _shifted(state: int, distance: int, shift: np.ndarray) -> int:
    """The state after `distance` zero bytes."""
    row = shift[distance]
    return int(
        row[0, state & 255] ^ row[1, state >> 8 & 255] ^ row[2, state >> 16 & 255] ^ row[3, state >> 24]
    )


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """(CRC contribution [distance, byte], state after zero bytes [distance, byte of the state, value])."""
    single = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        single = np.where(single & 1, single >> 1 ^ _POLYNOMIAL, single >> 1).astype(np.uint32)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[0] = single
    for distance in range(1, _BLOCK):
        table[distance] = table[distance - 1] >> 8 ^ single[table[distance - 1] & 255]
    shift = np.empty((_BLOCK + 1, 4, 256), np.uint32)
    shift[0] = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    for distance in range(1, _BLOCK + 1):
        shift[distance] = shift[distance - 1] >> 8 ^ single[shift[distance - 1] & 255]
    return table, shift


try:
    from google_crc32c import value as crc32c
except ImportError:
    crc32c = crc32c_numpy
