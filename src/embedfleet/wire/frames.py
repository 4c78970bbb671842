"""The wire between a gateway and its own replicas, described in `docs/wire.md`.

This module decides the bytes of a call and of the frames that answer it. It refuses to know HTTP,
sockets and what happens to a text after it was decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from embedfleet.vocabulary import Encoding, ReplicaError, Vectors

CALL_TYPE = "application/x-embedfleet-call"
FRAMES_TYPE = "application/x-embedfleet-frames"
VERSION = 1

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
"""What decoding bytes from elsewhere may raise; of strings that are no UTF-8 it is the latter."""

_LENGTH = struct.Struct("<I")
_IDS = np.dtype("<i4")
_FLOATS = np.dtype("<f4")


class CallText(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One text of a call."""

    id: int
    """Chosen by the gateway, unique within the call."""
    ids: bytes
    """Token ids, little-endian int32, end-of-text included."""
    bulk: bool
    """Whether the text is of the bulk lane."""
    deadline_ms: int
    """Milliseconds left until nobody waits for the answer any more; 0 for no deadline."""
    alone: bool = False
    """Whether it must not share a batch, because it may be what kills engines."""

    @property
    def encoding(self) -> Encoding:
        """The token ids, without copying."""
        return np.frombuffer(self.ids, _IDS)


class Call(msgspec.Struct, array_like=True, frozen=True):
    """Texts handed to a replica in one HTTP request."""

    version: int
    gateway: str
    """Who calls; a replica divides its window among the gateways that it hears from."""
    key: str
    """Names the call when its texts are cancelled; unguessable, so that gateways do not clash."""
    texts: list[CallText]


class Cancel(msgspec.Struct, array_like=True, frozen=True):
    """Texts of a call that nobody waits for any more."""

    key: str
    ids: list[int]


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A text that has no vector, and why."""

    id: int
    code: str
    """The error's `code` in `vocabulary.py`."""
    message: str


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """What one batch gave to one call."""

    ids: list[int]
    """Texts that have a vector, in row order."""
    vectors: bytes
    """Little-endian float32, [len(ids), width], unit rows."""
    failures: list[Failure]
    queue_us: int
    """Longest time that one of these texts waited in the replica, microseconds."""
    compute_us: int
    """Time of the forward pass, microseconds."""
    window: int
    """Tokens of work that the gateway may now have outstanding at this replica."""
    echoes: list[int] = []
    """For each of `ids`, the `echo` of the token ids whose vector the replica means to answer."""

    def check_echoes(self, asked: Mapping[int, int]) -> None:
        """Compare with the echoes of what was asked, by id; ReplicaError on any difference."""
        if self.echoes != [asked.get(text) for text in self.ids]:
            raise ReplicaError(
                "a frame answers other texts than were asked: the replica, or something on the "
                "way to it, mixed texts up"
            )

    def matrix(self, width: int) -> Vectors:
        """The vectors, [len(ids), width], without copying; ReplicaError if the size is wrong."""
        expected = len(self.ids) * width * _FLOATS.itemsize
        if len(self.vectors) != expected:
            raise ReplicaError(
                f"a frame with {len(self.ids)} vectors of {width} dimensions should carry "
                f"{expected} bytes, got {len(self.vectors)}"
            )
        return np.frombuffer(self.vectors, _FLOATS).reshape(len(self.ids), width)


Take: TypeAlias = Callable[[Frame], None]
"""Is given the frames of a call as they come; what it raises ends the call."""

_call_encoder = msgspec.msgpack.Encoder()
_call_decoder = msgspec.msgpack.Decoder(Call)
_cancel_decoder = msgspec.msgpack.Decoder(Cancel)
_frame_decoder = msgspec.msgpack.Decoder(Frame)


def encoding_bytes(encoding: Encoding) -> bytes:
    """Token ids as they travel: little-endian int32."""
    return encoding.astype(_IDS, copy=False).tobytes()


def echo(encoding: Encoding | bytes) -> int:
    """The CRC-32 of a text's token ids: tells texts apart without carrying them back."""
    return zlib.crc32(encoding if isinstance(encoding, bytes) else encoding_bytes(encoding))


def vector_bytes(vectors: Vectors) -> bytes:
    """Vectors as they travel: little-endian float32, row after row."""
    return vectors.astype(_FLOATS, copy=False).tobytes()


def encode_call(gateway: str, key: str, texts: Sequence[CallText]) -> bytes:
    return _call_encoder.encode(Call(VERSION, gateway, key, list(texts)))


def decode_call(body: bytes) -> Call:
    """Raise ReplicaError when the body is no call of this version."""
    try:
        call = _call_decoder.decode(body)
    except UNREADABLE as error:
        raise ReplicaError(f"not a call of embedfleet's wire: {error}") from error
    if call.version != VERSION:
        raise ReplicaError(
            f"the call is of wire version {call.version}, this replica speaks {VERSION}: "
            "run the same release of embedfleet on both sides"
        )
    return call


def encode_cancel(key: str, ids: Sequence[int]) -> bytes:
    return _call_encoder.encode(Cancel(key, list(ids)))


def decode_cancel(body: bytes) -> Cancel:
    try:
        return _cancel_decoder.decode(body)
    except UNREADABLE as error:
        raise ReplicaError(f"not a cancellation of embedfleet's wire: {error}") from error


def encode_frame(frame: Frame) -> bytes:
    """A frame with its length in front (unsigned 32 bit, little-endian)."""
    body = _call_encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Frames out of a stream of bytes that arrives in any pieces."""

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self._buffer = bytearray()
        self._limit = limit_bytes

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes; ReplicaError on anything that is no frame."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._limit:
                raise ReplicaError(f"a frame of {length} bytes, more than {self._limit} allowed")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                yield _frame_decoder.decode(body)
            except UNREADABLE as error:
                raise ReplicaError(f"a frame that can't be read: {error}") from error

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet; not zero at the end means a torn answer."""
        return len(self._buffer)
