"""Cache entries as bytes: one text's vector, its token count, and whether it was truncated. Pure.

Layout (little-endian): a 20-byte header of magic `EFV1`, number format, flags, two zero bytes,
tokens, width and checksum, followed by the numbers. Values that leave this process have a checksum
over key and value, so that a reply to a different request (a desynchronised connection) is
rejected; it is zero in others, and where it is computed.
"""

from __future__ import annotations

from struct import Struct
from typing import Literal, TypeAlias
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import Vector

Numbers: TypeAlias = Literal["float32", "float16"]
"""How a vector's numbers are kept. float16 takes half the room and moves each by less than 1e-3."""

_HEAD = Struct("<4sBBHIII")
_MAGIC = b"EFV1"
_KINDS: dict[Numbers, int] = {"float32": 0, "float16": 1}
_TYPES = (np.dtype("<f4"), np.dtype("<f2"))
_TRUNCATED = 1
HEAD_BYTES = _HEAD.size
_CHECKSUM_AT = HEAD_BYTES - 4

_UNIT_WITHIN = 1e-2
"""How far the squared length of a vector from elsewhere may be from 1; float16 moves it by less
than 1e-3."""


class Entry(msgspec.Struct, frozen=True):
    """One text's vector, as a request needs it."""

    vector: Vector
    """Full width, unit length; where float32 is kept, a read-only view of the entry's bytes."""
    tokens: int
    """With prompt and end-of-text token."""
    truncated: bool


def pack(vector: Vector, tokens: int, *, truncated: bool, numbers: Numbers = "float32") -> bytes:
    """The bytes to keep, without a checksum. `vector` is a float32 array of shape [width]."""
    kind = _KINDS[numbers]
    body = np.ascontiguousarray(vector, _TYPES[kind]).data.cast("B")
    head = _HEAD.pack(_MAGIC, kind, truncated * _TRUNCATED, 0, tokens, len(vector), 0)
    return b"".join((head, body))


def sealed(key: bytes, value: bytes) -> bytes:
    """What `pack` made, with its checksum, as it leaves this process.

    The checksum takes over a microsecond for a vector of 1,024 numbers, more than packing it.
    """
    checksum = crc32(value, crc32(key))
    return b"".join((value[:_CHECKSUM_AT], checksum.to_bytes(4, "little"), value[HEAD_BYTES:]))


def unpack(value: bytes) -> Entry:
    """Read bytes that `pack` made and that never left this process."""
    _, kind, flags, _, tokens, width, _ = _HEAD.unpack_from(value)
    if kind:
        vector = _whole(np.frombuffer(value, "<f2", width, HEAD_BYTES))
    else:
        vector = np.frombuffer(value, "<f4", width, HEAD_BYTES)
    return Entry(vector, tokens, bool(flags & _TRUNCATED))


def is_entry(key: bytes, value: bytes, width: int, numbers: Numbers = "float32") -> bool:
    """Whether bytes from elsewhere are an entry of this key, whole, of the right width, of unit
    length and with numbers that are no coarser than wanted.
    """
    if len(value) < HEAD_BYTES:
        return False
    magic, kind, flags, zero, tokens, wide, checksum = _HEAD.unpack_from(value)
    if (
        magic != _MAGIC
        or kind >= len(_TYPES)
        or wide != width
        or not tokens
        or kind > _KINDS[numbers]
    ):
        return False
    body = memoryview(value)[HEAD_BYTES:]
    if len(body) != width * _TYPES[kind].itemsize:
        return False
    head = _HEAD.pack(magic, kind, flags, zero, tokens, wide, 0)
    if checksum != crc32(body, crc32(head, crc32(key))):
        return False
    vector = np.frombuffer(body, _TYPES[kind]).astype(np.float32, copy=False)
    return bool(abs(float(vector.dot(vector)) - 1.0) < _UNIT_WITHIN)  # never where one is NaN


def _whole(halves: NDArray[np.float16]) -> Vector:
    """float32 of unit length again: rounding has moved the length a little."""
    vector = halves.astype(np.float32)
    vector /= np.sqrt(np.add.reduce(vector * vector))
    return vector
