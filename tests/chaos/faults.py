"""What can go wrong on the way from a replica to its gateway: one function per lie.

Each takes an honest frame and returns the bytes that go out in its place. What ends the process or
the connection is in `replica_process.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import numpy as np

from embedfleet.transport.frames import Failure, Frame, encode_frame

Lie = Callable[[Frame, int, random.Random], bytes]
"""Frame, width of a vector, dice."""


def rows(frame: Frame, width: int) -> np.ndarray:
    return frame.matrix(width).copy()


def garbage(frame: Frame, width: int, dice: random.Random) -> bytes:
    """Bytes that are no frame: a proxy's error page, say."""
    return dice.randbytes(dice.randrange(1, 400))


def wrong_count(frame: Frame, width: int, dice: random.Random) -> bytes:
    """One vector fewer than texts."""
    return encode_frame(msgspec.structs.replace(frame, vectors=frame.vectors[: -4 * width]))


def wrong_width(frame: Frame, width: int, dice: random.Random) -> bytes:
    """Vectors of another model."""
    narrow = rows(frame, width)[:, : width // 2].tobytes()
    return encode_frame(msgspec.structs.replace(frame, vectors=narrow))


def not_finite(frame: Frame, width: int, dice: random.Random) -> bytes:
    """NaN in one vector."""
    vectors = rows(frame, width)
    vectors[dice.randrange(len(vectors)), dice.randrange(width)] = np.nan
    return encode_frame(msgspec.structs.replace(frame, vectors=vectors.tobytes()))


def zeroed(frame: Frame, width: int, dice: random.Random) -> bytes:
    """One vector of zeros: memory that was never written."""
    vectors = rows(frame, width)
    vectors[dice.randrange(len(vectors))] = 0
    return encode_frame(msgspec.structs.replace(frame, vectors=vectors.tobytes()))


def swapped(frame: Frame, width: int, dice: random.Random) -> bytes:
    """Two texts have each other's vectors: the replica lost track of which row is whose."""
    ids = list(frame.ids)
    if len(ids) > 1:
        one, other = dice.sample(range(len(ids)), 2)
        ids[one], ids[other] = ids[other], ids[one]
    return encode_frame(msgspec.structs.replace(frame, ids=ids))


def uninvited(frame: Frame, width: int, dice: random.Random) -> bytes:
    """The answer to a text that nobody asked for."""
    return encode_frame(msgspec.structs.replace(frame, ids=[10**6 + n for n in frame.ids]))


def repeated(frame: Frame, width: int, dice: random.Random) -> bytes:
    """The same answer twice."""
    return encode_frame(frame) * 2


def forgotten(frame: Frame, width: int, dice: random.Random) -> bytes:
    """Texts that are in no frame, as if they had never come."""
    kept = dice.randrange(len(frame.ids))
    keeping = {"ids": frame.ids[:kept], "vectors": frame.vectors[: 4 * width * kept]}
    if hasattr(frame, "echoes"):
        keeping["echoes"] = frame.echoes[:kept]
    return encode_frame(msgspec.structs.replace(frame, **keeping))


def failed(frame: Frame, width: int, dice: random.Random) -> bytes:
    """A batch that the engine could not compute: out of memory, say."""
    failures = [Failure(text, "replica_failed", "out of memory") for text in frame.ids]
    none = {"ids": [], "vectors": b"", "failures": failures}
    if hasattr(frame, "echoes"):
        none["echoes"] = []
    return encode_frame(msgspec.structs.replace(frame, **none))


LIES: dict[str, Lie] = {
    lie.__name__: lie
    for lie in (
        *(garbage, wrong_count, wrong_width, not_finite, zeroed),
        *(swapped, uninvited, repeated, forgotten, failed),
    )
}
DEEDS = ("slow", "drip", "reset", "die", "refuse")
"""Faults that are no bytes: a frame that comes late or in drops, a connection that is torn in the
middle of a frame, a process that kills itself there, a call that is answered 500."""

ALL = (*LIES, *DEEDS)
