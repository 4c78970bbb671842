"""The binary protocol between a gateway and its own replicas: calls and result frames.

docs/wire.md specifies it. Both sides validate what they decode; a field out of bounds is an error
of the sender.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeAlias

import msgspec
import numpy as np

from embedfleet.transport.untrusted import parsed, shown
from embedfleet.vocabulary import Encoding, ReplicaError, Vectors

CALL_TYPE = "application/x-embedfleet-call"
FRAMES_TYPE = "application/x-embedfleet-frames"
VERSION = 1

MOST_WIDTH = 65_536
"""Dimensions of a vector; the largest models known have 8,192."""

MOST_TEXTS = 65_536
"""Texts of one call."""

MOST_MESSAGE = 2_000
"""Characters that say why a text has no vector."""

_FRAME_HEAD_BYTES = 4_096
"""What a frame takes beside its texts, generously."""

_TEXT_BYTES = 4 * MOST_WIDTH + 4 * MOST_MESSAGE + 256
"""The most that a frame may take for one text: its vector, or why there is none."""

TextId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Echo: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Word: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
Microseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
"""Up to eleven days."""

_LENGTH = struct.Struct("<I")
_IDS = np.dtype("<i4")
_FLOATS = np.dtype("<f4")


class CallText(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One text of a call."""

    id: TextId
    """Chosen by the gateway, unique within the call."""
    ids: bytes
    """Token ids, little-endian int32, end-of-text included."""
    bulk: bool
    """Whether the text is of the bulk lane."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    """Milliseconds until the deadline; 0 for none."""
    alone: bool = False
    """Whether it must not share a batch, because it may be what kills engines."""

    @property
    def encoding(self) -> Encoding:
        """The token ids, without copying."""
        return np.frombuffer(self.ids, _IDS)


class Call(msgspec.Struct, array_like=True, frozen=True):
    """Texts sent to a replica in one HTTP request."""

    version: int
    gateway: Word
    """Who calls; a replica divides its window among the gateways that it hears from."""
    key: Word
    """Names the call when its texts are cancelled; unguessable, so that gateways do not clash."""
    texts: Annotated[list[CallText], msgspec.Meta(max_length=MOST_TEXTS)]


class Cancel(msgspec.Struct, array_like=True, frozen=True):
    """Texts of a call that are no longer needed."""

    key: Word
    ids: Annotated[list[TextId], msgspec.Meta(max_length=MOST_TEXTS)]


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A text that has no vector, and why."""

    id: TextId
    code: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,64}\Z")]
    """The error's `code` in `vocabulary.py`."""
    message: Annotated[str, msgspec.Meta(max_length=MOST_MESSAGE)]

    def harmless(self) -> Failure:
        """With a message of one line, as it goes into logs and to clients."""
        return Failure(self.id, self.code, shown(self.message, MOST_MESSAGE))


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """What one batch gave to one call."""

    ids: Annotated[list[TextId], msgspec.Meta(max_length=MOST_TEXTS)]
    """Texts that have a vector, in row order."""
    vectors: bytes
    """Little-endian float32, [len(ids), width], unit rows."""
    failures: Annotated[list[Failure], msgspec.Meta(max_length=MOST_TEXTS)]
    queue_us: Microseconds
    """Longest time that one of these texts waited in the replica, microseconds."""
    compute_us: Microseconds
    """Time of the forward pass, microseconds."""
    window: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    """Tokens of work that the gateway may now have outstanding at this replica."""
    echoes: Annotated[list[Echo], msgspec.Meta(max_length=MOST_TEXTS)] = []
    """For each of `ids`, the `echo` of the token ids whose vector the replica means to answer."""

    def matrix(self, width: int) -> Vectors:
        """The vectors, [len(ids), width], without copying; ReplicaError if the size is wrong."""
        expected = len(self.ids) * width * _FLOATS.itemsize
        if len(self.vectors) != expected:
            raise ReplicaError(
                f"a frame with {len(self.ids)} vectors of {width} dimensions should carry "
                f"{expected} bytes, got {len(self.vectors)}"
            )
        return np.frombuffer(self.vectors, _FLOATS).reshape(len(self.ids), width)


class Unanswered:
    """The texts of one call, and which of them its frames have answered so far."""

    __slots__ = ("_echoes", "_open", "repeated")

    def __init__(self, texts: Sequence[CallText]) -> None:
        self._echoes = {text.id: zlib.crc32(text.ids) for text in texts}
        self._open = dict(self._echoes)
        self.repeated = 0
        """Answers to texts that had been answered: the first stands."""

    def news(self, frame: Frame) -> Frame | None:
        """What a frame answers for the first time; None where that is nothing.

        ReplicaError when it answers nothing, a text that was not sent, another text in its
        place, or the same ones without an end.
        """
        if not frame.ids and not frame.failures:
            raise ReplicaError("a frame without answers")
        fresh = [self._open.pop(text, None) for text in frame.ids]
        failures = frame.failures
        for failure in failures:
            if failure.id not in self._echoes:
                raise ReplicaError(
                    f"a frame reports a failure of text {failure.id}, which was not in the call"
                )
        if failures:
            failures = [each for each in failures if self._open.pop(each.id, None) is not None]
        if fresh == frame.echoes and len(failures) == len(frame.failures):
            return frame
        if frame.echoes != [self._echoes.get(text) for text in frame.ids]:
            raise ReplicaError(
                "the echoes of a frame do not match the texts that were sent: the replica or a "
                "proxy confused answers"
            )
        return self._without_repeats(frame, fresh, failures)

    def _without_repeats(
        self, frame: Frame, fresh: list[int | None], failures: list[Failure]
    ) -> Frame | None:
        kept = [row for row, echoed in enumerate(fresh) if echoed is not None]
        self.repeated += len(fresh) - len(kept) + len(frame.failures) - len(failures)
        if self.repeated > len(self._echoes):
            raise ReplicaError("frames keep answering the same texts")
        if not kept and not failures:
            return None
        size, rest = divmod(len(frame.vectors), max(1, len(frame.ids)))
        if rest:
            raise ReplicaError("a frame whose vectors differ in size")
        return msgspec.structs.replace(
            frame,
            ids=[frame.ids[row] for row in kept],
            vectors=b"".join(frame.vectors[row * size : (row + 1) * size] for row in kept),
            echoes=[frame.echoes[row] for row in kept],
            failures=failures,
        )


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
    """The CRC-32 of a text's token ids: identifies texts without carrying them back."""
    held = encoding if isinstance(encoding, bytes) else encoding.astype(_IDS, "C", copy=False).data
    return zlib.crc32(held)


def vector_bytes(vectors: Vectors) -> bytes:
    """Vectors as they travel: little-endian float32, row after row."""
    return vectors.astype(_FLOATS, copy=False).tobytes()


def encode_call(gateway: str, key: str, texts: Sequence[CallText]) -> bytes:
    return _call_encoder.encode(Call(VERSION, gateway, key, list(texts)))


def decode_call(body: bytes | bytearray) -> Call:
    """Raise ReplicaError when the body is no call of this version."""
    call = parsed("not a call of embedfleet's wire", _call_decoder.decode, body)
    if call.version != VERSION:
        raise ReplicaError(
            f"the call is of wire version {call.version}, this replica speaks {VERSION}: "
            "run the same release of embedfleet on both sides"
        )
    if any(len(text.ids) % _IDS.itemsize for text in call.texts):
        raise ReplicaError(
            "not a call of embedfleet's wire protocol: token ids are not a whole number of int32"
        )
    if len({text.id for text in call.texts}) != len(call.texts):
        raise ReplicaError("not a call of embedfleet's wire protocol: two texts have the same id")
    return call


def encode_cancel(key: str, ids: Sequence[int]) -> bytes:
    return _call_encoder.encode(Cancel(key, list(ids)))


def decode_cancel(body: bytes | bytearray) -> Cancel:
    """Raise ReplicaError when the body is no cancellation."""
    return parsed("not a cancellation of embedfleet's wire", _cancel_decoder.decode, body)


def most_frame_bytes(texts: int) -> int:
    """The largest frame that can answer a call of so many texts."""
    return _FRAME_HEAD_BYTES + texts * _TEXT_BYTES


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
            frame = parsed("a frame that can't be read", _frame_decoder.decode, body)
            if frame.failures:
                frame = msgspec.structs.replace(
                    frame, failures=[each.harmless() for each in frame.failures]
                )
            yield frame

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet; not zero at the end means a torn answer."""
        return len(self._buffer)
