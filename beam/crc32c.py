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
    if len(data) < 4:
        return _crc32c_small(data)
    table, shift = _tables()
    # Zeros before the data change nothing while the state is zero; the first state, all ones, goes into the
    # first four bytes instead.
    padding = -len(data) % _BLOCK
    padded = np.zeros(padding + len(data), np.uint8)
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= 255
    blocks = padded.reshape(-1, _BLOCK)  # [blocks, bytes]
    state = 0
    for gathered in np.bitwise_xor.reduce(table[_DISTANCES, blocks], axis=1).tolist():
        first, second, third, fourth = shift
        state = (
            first[state & 255]
            ^ second[state >> 8 & 255]
            ^ third[state >> 16 & 255]
            ^ fourth[state >> 24]
            ^ gathered
        )
    return state ^ 0xFFFFFFFF


def _crc32c_small(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (_POLYNOMIAL if state & 1 else 0)
    return state ^ 0xFFFFFFFF


_DISTANCES = np.arange(_BLOCK - 1, -1, -1)


@functools.cache
def _tables() -> tuple[np.ndarray, list[list[int]]]:
    """(by a byte's distance from the end and value: contribution; by a state's byte: state after a block)."""
    single = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        single = np.where(single & 1, single >> 1 ^ _POLYNOMIAL, single >> 1).astype(np.uint32)

    def next_byte(state: np.ndarray) -> np.ndarray:
        return state >> 8 ^ single[state & 255]

    table = np.empty((_BLOCK, 256), np.uint32)
    table[0] = single
    for distance in range(1, _BLOCK):
        table[distance] = next_byte(table[distance - 1])
    shift = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    for _ in range(_BLOCK):
        shift = next_byte(shift)
    return table, shift.tolist()


try:
    from google_crc32c import value as crc32c
except ImportError:
    crc32c = crc32c_numpy
