"""Requests of every kind of wrong, and what two other parsers make of them.

`h11` and `llhttp` (through httptools, byte by byte, with no limits around it) are the judges: what
both refuse must be refused here, what both accept and `rules.py` allows must be answered. Whatever
is sent, its connection comes to an end, and the process answers afterwards, without having grown.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import ssl
from collections import Counter
from collections.abc import AsyncIterator

import h11
import httptools
import pytest

from embedfleet.transport.asgi import Request, Response, Router
from embedfleet.transport.serving import ClientLimits, Listener, bind, serving
from embedfleet.transport.serving.rules import read_head
from embedfleet.vocabulary import EmbedfleetError
from tests.transport.serving.test_connection import post

LIMITS = ClientLimits(connections=500, head_s=20, body_s=20, idle_s=20)

METHODS = [
    b"GET",
    b"POST",
    b"HEAD",
    b"OPTIONS",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"PRI",
    b"get",
    b"M-SEARCH",
    b"\x00",
    b"",
]
TARGETS = [
    b"/",
    b"/echo",
    b"//x",
    b"*",
    b"http://here/echo",
    b"here:443",
    b"http://",
    b"a://b:1",
    b"/a b",
    b"",
    b"/%zz",
    b"/\xff",
    b"/echo?x=1#y",
    b"http://h:99999/",
    b"?",
    b"/" + b"p" * 3000,
]
VERSIONS = [
    *(b"HTTP/1.1",) * 8,
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTQ/1.1",
    b"",
]
HEADERS = [
    *(b"Host: here",) * 3,
    b"Host: a b@/",
    b"Host:",
    b"Host: [::1]:80",
    b"Host: h:p",
    b"host : x",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"transfer-encoding: CHUNKED",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"X-A: b",
    b" folded",
    b"\tfolded",
    b"X-Nul: \x00",
    b"X-\xff: y",
    b": empty",
    b"none",
    b"X: " + b"v" * 2000,
]
BODIES = [
    b"",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n",
    b"zz\r\n",
    b"-1\r\n",
    b"5\nhello\n0\n\n",
    b"\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b"5\r\nhelloX",
]
ENDS = [
    *(b"\r\n",) * 12,
    b"\n",
    b"\r",
    b"\r\r\n",
]


def written(rng: random.Random) -> bytes:
    """A request by a grammar that goes wrong now and then."""
    end = rng.choice(ENDS)
    first = b" ".join((rng.choice(METHODS), rng.choice(TARGETS), rng.choice(VERSIONS)))
    headers = rng.choices(HEADERS, k=rng.randrange(6))
    if rng.random() < 0.7:
        headers.insert(0, b"Host: here")
    return end.join([first, *headers, b"", b""]) + rng.choice(BODIES)


def mutated(rng: random.Random) -> bytes:
    """A good request with some bytes changed."""
    good = bytearray(post("/echo", b"hello", *(["Connection: close"] * (rng.random() < 0.5))))
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(good))
        kind = rng.randrange(3)
        if kind == 0:
            good[at] = rng.randrange(256)
        elif kind == 1:
            del good[at : at + rng.randrange(1, 4)]
        else:
            good[at:at] = rng.choice([b"\r\n", b"\n", b"\r", b" ", b"\x00", b"\r\n\r\n", b":"])
        if not good:
            good += b"\r\n"
    return bytes(good)


def made(rng: random.Random) -> bytes:
    """What one connection sends: one request, or a few at once."""
    kinds = (written, written, mutated, lambda each: each.randbytes(each.randrange(1, 80)))
    return b"".join(rng.choice(kinds)(rng) for _ in range(rng.choice([1, 1, 1, 2, 4])))


class _Llhttp:
    """Whether llhttp takes the first request."""

    def __init__(self) -> None:
        self.complete = self.upgrade = False

    def on_message_complete(self) -> None:
        self.complete = True

    @classmethod
    def accepts(cls, sent: bytes) -> bool | None:
        """None while it is not whole."""
        seen = cls()
        parser = httptools.HttpRequestParser(seen)
        for number in range(len(sent)):
            try:
                parser.feed_data(sent[number : number + 1])
            except httptools.HttpParserUpgrade:
                return None
            except httptools.HttpParserError:
                return False
            if seen.complete:
                return True
        return None


def h11_accepts(sent: bytes, heads: list[h11.Request] | None = None) -> bool | None:
    """Whether h11 takes the first request; None while it is not whole."""
    judge = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    judge.receive_data(sent)
    try:
        while True:
            event = judge.next_event()
            if isinstance(event, h11.Request) and heads is not None:
                heads.append(event)
            if isinstance(event, h11.EndOfMessage):
                return True
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return None
    except h11.RemoteProtocolError:
        return False


def allowed(head: h11.Request) -> bool:
    """Whether what is well written may be asked here (`rules.py`, which has tests of its own)."""
    try:
        headers = list(head.headers)
        first = dict(reversed(headers))
        read_head(head.method, head.http_version.decode(), head.target, headers, first)
    except EmbedfleetError:
        return False
    return True


class Echo:
    """An app that answers everything."""

    def router(self) -> Router:
        answers = {
            (method, path): self.answer for method in ("GET", "POST") for path in ("/", "/echo")
        }
        return Router(answers | {("GET", "/health/live"): self.answer})

    async def answer(self, request: Request) -> Response:
        return Response(bytes(await request.body(10**6)))


@contextlib.asynccontextmanager
async def standing(tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    listener = Listener(Echo().router(), bind("127.0.0.1", 0), tls)
    port: int = listener.socket.getsockname()[1]
    async with serving([listener], stop_timeout_s=2, limits=LIMITS):
        yield port


async def said(
    port: int, sent: bytes, rng: random.Random, tls: ssl.SSLContext | None, silence_s: float
) -> bytes:
    """What comes back for what was sent, until the server closes or has been silent that long."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        got = b""
        try:
            cut = rng.randrange(len(sent) + 1)
            for part in (sent[:cut], sent[cut:]) if rng.random() < 0.3 else (sent,):
                writer.write(part)
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(silence_s):
                    while (part := await reader.read(1 << 16)) != b"":
                        got += part
                        if complete(got):
                            break
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()
        return got


def complete(got: bytes) -> bool:
    """Whether there is a first answer that is final."""
    while got.startswith(b"HTTP/1.1 100"):
        got = got.partition(b"\r\n\r\n")[2]
    return b"\r\n\r\n" in got


def status_of(got: bytes) -> int | None:
    while got.startswith(b"HTTP/1.1 100"):
        got = got.partition(b"\r\n\r\n")[2]
    return int(got[9:12]) if got.startswith(b"HTTP/1.1 ") else None


MUST_ANSWER_S = 30.0
"""Patience with a server that has to answer: this machine may be busy."""
MAY_ANSWER_S = 0.25
"""Patience where the request may be unfinished, which is answered by nothing."""
MALFORMED = {400, 431, 501, 505}
"""Answers to what is no request that is understood here."""


async def fuzzed(
    seed: int, count: int, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
) -> None:
    rng = random.Random(seed)
    outcomes: Counter[tuple[tuple[bool | None, bool | None], bool | None]] = Counter()
    theirs, ours = tls or (None, None)
    async with standing(theirs) as port:
        gate = asyncio.Semaphore(64)

        async def one(sent: bytes, dice: random.Random) -> None:
            heads: list[h11.Request] = []
            verdicts = _Llhttp.accepts(sent), h11_accepts(sent, heads)
            certain = verdicts == (False, False) or (verdicts == (True, True) and allowed(heads[0]))
            async with gate:
                got = await said(port, sent, dice, ours, MUST_ANSWER_S if certain else MAY_ANSWER_S)
            status = status_of(got)
            outcomes[verdicts, status in MALFORMED if status else None] += 1
            assert status is None or status < 500 or status in MALFORMED, (sent, got)
            if verdicts == (False, False):
                # Where the head is right, a route may refuse it before its body is looked at.
                assert status in MALFORMED or (heads and status in {404, 405}), (sent, got)
            if verdicts == (True, True) and allowed(heads[0]):
                assert status not in {None, *MALFORMED}, (sent, got)
            if status is not None and status not in MALFORMED | {404, 405}:
                # h11 refuses a few things that are harmless, such as empty lines before a request.
                assert verdicts[0] is not False, (sent, got)

        for start in range(0, count, 1000):
            batch = min(1000, count - start)
            await asyncio.gather(
                *(one(made(rng), random.Random(rng.random())) for _ in range(batch))
            )
            if start == 0:
                gc.collect()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert outcomes[(True, True), False] > count / 100
        assert outcomes[(False, False), True] > count / 10
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown_mib < 60
        question = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        alive = await said(port, question, rng, ours, MUST_ANSWER_S)
        assert status_of(alive) == 200


async def test_what_others_refuse_is_refused_and_nothing_hangs() -> None:
    await fuzzed(1, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
async def test_many_more_fuzzed_requests_are_answered_or_refused(seed: int) -> None:
    """`python -m tests.transport.serving.fuzzing_apps` sends as many as one likes."""
    await fuzzed(seed, 6_000)
