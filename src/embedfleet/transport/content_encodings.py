"""Decompresses request bodies (RFC 9110, 8.4): gzip and deflate.

Expands a body lazily, in pieces: the reader counts them, so a decompression bomb is cut off at the
size limit and costs no more than the largest body. Other codings are answered 415 with a list of
those that are accepted.
"""

from __future__ import annotations

import asyncio
import zlib

import msgspec

from embedfleet.transport.asgi import Message, Receive, Request, Scope
from embedfleet.vocabulary import CallerError, MediaTypeError

ACCEPTED = b"gzip, deflate"
PIECE_BYTES = 256 << 10
_WINDOWS = {
    b"gzip": 16 + zlib.MAX_WBITS,
    b"x-gzip": 16 + zlib.MAX_WBITS,
    b"deflate": zlib.MAX_WBITS,
}


class UnknownCodingError(MediaTypeError):
    headers = ((b"accept-encoding", ACCEPTED),)


def expanded(request: Request) -> Request:
    """The request with its body as it was before it was compressed; UnknownCodingError."""
    coding = _coding(request.scope)
    if not coding:
        return request
    if coding in _WINDOWS:
        kept = [each for each in request.scope["headers"] if each[0] not in _OF_CODED]
        receive = _Expanded(request.receive, _WINDOWS[coding]).receive
        scope = {**request.scope, "headers": kept}
        return msgspec.structs.replace(request, scope=scope, receive=receive)
    shown = coding[:40].decode("latin-1")
    raise UnknownCodingError(
        f"Content-Encoding {shown!r} is not supported; supported are gzip and deflate",
        code="unsupported_media_type",
    )


_OF_CODED = {b"content-encoding", b"content-length"}
"""Headers that speak of the body as it came."""


def _coding(scope: Scope) -> bytes:
    found = b",".join(value for name, value in scope["headers"] if name == b"content-encoding")
    listed = [each.strip().lower() for each in found.split(b",")]
    return b",".join(each for each in listed if each not in {b"", b"identity"})


class _Expanded:
    """The body of one request."""

    def __init__(self, receive: Receive, window: int) -> None:
        self._receive = receive
        self._window = window
        self._inflate = zlib.decompressobj(window)
        self._coded = b""
        self._begun = self._whole = self._told = False
        """Whether there was any of it, all of it came, and its end was handed on."""

    async def receive(self) -> Message:
        """The next piece. Raises CallerError where it is no such coding."""
        if self._told:
            return await self._receive()
        if not self._coded and not self._whole:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._coded = message.get("body", b"")
            self._whole = not message.get("more_body", False)
        await asyncio.sleep(0)  # a small body may be a large one: others have their turn between
        piece = self._next()
        self._told = self._whole and self._inflate.eof
        return {"type": "http.request", "body": piece, "more_body": not self._told}

    def _next(self) -> bytes:
        try:
            if self._coded and not self._begun:
                self._begun = True
                if self._window == zlib.MAX_WBITS and not _has_header(self._coded):
                    self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)  # as some clients send it
            piece = self._inflate.decompress(self._coded, PIECE_BYTES)
        except zlib.error as error:
            raise CallerError(f"the body does not match its Content-Encoding: {error}") from error
        self._coded = self._inflate.unconsumed_tail
        if self._inflate.eof and self._inflate.unused_data:
            raise CallerError("the body continues after the end of the compressed data")
        # A full piece is no sign of an end: more may come of what was taken in already.
        if self._whole and not self._inflate.eof and len(piece) < PIECE_BYTES:
            raise CallerError("the compressed body is truncated")
        return piece


def _has_header(coded: bytes) -> bool:
    """Whether deflate comes as zlib's format, as RFC 9110 has it, or bare."""
    return coded[0] & 0x0F == 8 and (len(coded) < 2 or not int.from_bytes(coded[:2]) % 31)
