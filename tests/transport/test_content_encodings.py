"""Compressed bodies: what comes out of them, and what they cost."""

from __future__ import annotations

import gzip
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.asgi import Message, Request, Response, Router
from embedfleet.transport.content_encodings import PIECE_BYTES, expanded

RAW = zlib.compressobj(wbits=-15)
BARE = RAW.compress(b"hello" * 1000) + RAW.flush()
LIMIT = 1 << 20
CODINGS = {-15: b"deflate", 15: b"deflate", 31: b"gzip"}
"""Of each format, by the window that zlib takes."""


async def asked(
    parts: list[bytes], coding: bytes, seen: list[int] | None = None
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Status, body and headers of what an echo answers; `seen` are the sizes of pieces."""
    waiting = list(parts)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    async def echo(request: Request) -> Response:
        sizes = seen if seen is not None else []
        return Response(bytes(await request.body(LIMIT, sizes.append)))

    length = (b"content-length", b"%d" % sum(map(len, parts)))
    headers = [(b"content-encoding", coding), length]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await Router({("POST", "/"): echo}, expand=expanded)(scope, receive, send)
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


@given(
    st.binary(max_size=5000),
    st.integers(1, 700),
    st.sampled_from(["gzip", "deflate", "x-gzip", "GZIP", "identity, gzip"]),
)
async def test_a_body_is_what_it_was_before_however_it_was_cut(
    body: bytes, cut: int, coding: str
) -> None:
    coded = zlib.compress(body) if coding == "deflate" else gzip.compress(body)
    parts = [coded[at : at + cut] for at in range(0, len(coded), cut)]
    assert (await asked(parts, coding.encode()))[:2] == (200, body)


@given(st.integers(-3, 600), st.sampled_from([-15, 15, 31]), st.booleans())
async def test_a_body_is_whole_or_refused_where_its_end_is_near_that_of_a_piece(
    beyond: int, wbits: int, cut: bool
) -> None:
    """The last bytes of a deflate stream can stand for hundreds that do not fit into a piece."""
    body = b"a" * (PIECE_BYTES + beyond)
    packer = zlib.compressobj(wbits=wbits)
    coded = packer.compress(body) + packer.flush()
    status, answer, _ = await asked([coded[:-1] if cut else coded], CODINGS[wbits])

    assert status == (400 if cut else 200)
    assert cut or answer == body


async def test_deflate_may_come_without_its_header() -> None:
    assert (await asked([BARE], b"deflate"))[:2] == (200, b"hello" * 1000)


async def test_a_decompression_bomb_ends_at_the_limit_of_a_body() -> None:
    seen: list[int] = []
    status, _, _ = await asked([gzip.compress(bytes(200 << 20))], b"gzip", seen)
    assert (status, sum(seen) <= LIMIT) == (413, True)


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"nonsense"])
async def test_other_codings_are_answered_with_those_that_are_understood(coding: bytes) -> None:
    status, body, headers = await asked([b"x"], coding)
    assert (status, headers[b"accept-encoding"]) == (415, b"gzip, deflate")
    assert "gzip and deflate" in orjson.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"hello", gzip.compress(b"hello" * 99)[:-9], gzip.compress(b"a") + b"more", b""]
)
async def test_what_is_not_compressed_as_it_says_is_refused(body: bytes) -> None:
    assert (await asked([body], b"gzip"))[0] == 400
