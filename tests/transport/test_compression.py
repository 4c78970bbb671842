"""Answers by gzip: who gets them, and that they are what they were."""

from __future__ import annotations

import asyncio
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.asgi import Request, Response, Router
from embedfleet.transport.compression import INLINE_BYTES, Content, gzipped, wants_gzip, worth
from embedfleet.transport.serving import Listener, bind, serving

LEAST = 1000


@pytest.mark.parametrize(
    ("accepted", "wanted"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("deflate, br", False),
        ("identity", False),
        ("*", True),
        ("*;q=0", False),
        ("*;q=0, gzip", True),
        ("gzip;q=0, *", False),
        ("gzip;q=0.000", False),
        ("gzip; q=0.001", True),
        ("gzip;q=nonsense", False),
        ("gzip;q=nan", False),
        (",,;;=,", False),
    ],
)
def test_gzip_is_for_who_names_it_or_takes_anything(accepted: str | None, wanted: bool) -> None:
    assert wants_gzip(accepted) is wanted


@given(st.text(max_size=60))
def test_any_accept_encoding_header_is_parsed(accepted: str) -> None:
    assert wants_gzip(accepted) in {True, False}


@given(st.binary(max_size=3000), st.sampled_from(("text", "numbers")))
def test_what_was_compressed_is_what_it_was(body: bytes, content: Content) -> None:
    assert gzip.decompress(gzipped(body, content)) == body


def test_packed_and_small_answers_are_left_as_they_are() -> None:
    assert worth(LEAST, "numbers", LEAST)
    assert not worth(LEAST - 1, "text", LEAST)
    assert not worth(10**9, "packed", LEAST)
    assert not worth(10**9, "text", None)


@pytest.mark.parametrize("size", [LEAST - 1, LEAST, INLINE_BYTES + 1])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_server_says_what_it_compressed(size: int, method: str) -> None:
    body, taken = b"0123456789" * (size // 10) + b"x" * (size % 10), []

    async def route(_request: Request) -> Response:
        return Response(body, content="numbers", taken=lambda: taken.append(1))

    app = Router({("GET", "/"): route}, compress_from=LEAST)
    listener = Listener(app, bind("127.0.0.1", 0))
    async with serving([listener], stop_timeout_s=1), aiohttp.ClientSession() as client:
        for accepted in ("gzip", "identity"):
            headers = {"accept-encoding": accepted}
            async with client.request(method, listener.url, headers=headers) as answer:
                large = size >= LEAST
                assert answer.headers.get("vary") == ("accept-encoding" if large else None)
                coded = large and accepted == "gzip"
                assert answer.headers.get("content-encoding") == ("gzip" if coded else None)
                assert (int(answer.headers["content-length"]) < size) is coded
                assert await answer.read() == (body if method == "GET" else b"")
    assert len(taken) == 2


async def test_an_answer_that_a_stop_cuts_while_it_is_compressed_goes_as_it_is() -> None:
    body, taken, begun = b"0123456789" * INLINE_BYTES, [], asyncio.Event()

    async def route(_request: Request) -> Response:
        begun.set()
        return Response(body, content="numbers", taken=lambda: taken.append(1))

    async def ask(client: aiohttp.ClientSession, url: str) -> tuple[int, str | None, bytes]:
        async with client.get(url, headers={"accept-encoding": "gzip"}) as answer:
            return answer.status, answer.headers.get("content-encoding"), await answer.read()

    held = threading.Event()
    threads = ThreadPoolExecutor(1)  # busy: nothing is compressed before the stop
    threads.submit(held.wait, 20)
    asyncio.get_running_loop().set_default_executor(threads)
    try:
        app = Router({("GET", "/"): route}, compress_from=LEAST)
        listener = Listener(app, bind("127.0.0.1", 0))
        async with aiohttp.ClientSession() as client:
            async with serving([listener], stop_timeout_s=0.1):
                asked = asyncio.create_task(ask(client, listener.url))
                await begun.wait()
            assert await asked == (200, None, body)
    finally:
        held.set()
    assert taken == [1]
