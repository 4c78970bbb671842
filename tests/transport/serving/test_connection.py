"""HTTP over real sockets: what clients may do, and what they may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import orjson
import pytest

from embedfleet.transport.asgi import ClientGoneError, Request, Response, Router
from embedfleet.transport.serving import ClientLimits, Listener, bind, serving
from embedfleet.vocabulary import BodyTooLargeError
from tests.network import needs_ipv6

LIMITS = ClientLimits(connections=50, head_bytes=4096, headers=20, head_s=60, body_s=60)
HASTY = replace(LIMITS, head_s=0.2, body_s=0.3)
"""For clients that are meant to be too slow; a busy machine makes others as slow now and then."""


@dataclass
class Site:
    """Routes that a test looks into."""

    hold: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether a request that is held has been heard."""
    poured: int = 0
    """Large answers that were given."""

    async def echo(self, request: Request) -> Response:
        """The body, and what was said of it."""
        body = await request.body(10**6)
        self.seen.append(request.header(b"x-name") or "")
        return Response(bytes(body), headers=[(b"x-path", request.scope["raw_path"])])

    async def held(self, request: Request) -> Response:
        """Answers when it may, or never where the client leaves."""
        await request.body(10**6)
        self.begun.set()
        waiting = asyncio.ensure_future(self.hold.wait())
        leaving = asyncio.ensure_future(request.gone())
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if leaving.done():
            self.gone.set()
            raise ClientGoneError
        leaving.cancel()
        return Response(b"held")

    async def refuse(self, request: Request) -> Response:
        """Too much to be read."""
        raise BodyTooLargeError("not that much")

    async def stream(self, request: Request) -> None:
        """In three pieces, without a length."""
        await request.send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"", b"two"):
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            await request.send(message)
        await request.send({"type": "http.response.body"})

    async def pour(self, request: Request) -> Response:
        self.poured += 1
        return Response(b"x" * (8 << 20))

    async def trickle(self, request: Request) -> None:
        """Without an end."""
        await request.send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            self.poured += 1
            message = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
            await request.send(message)

    async def split(self, request: Request) -> Response:
        """A header that would be two."""
        return Response(b"", headers=[(b"x-evil", b"a\r\nset-cookie: b")])

    def router(self) -> Router:
        routes = {
            ("POST", "/echo"): self.echo,
            ("GET", "/echo"): self.echo,
            ("POST", "/held"): self.held,
            ("POST", "/refuse"): self.refuse,
            ("GET", "/stream"): self.stream,
            ("GET", "/pour"): self.pour,
            ("GET", "/trickle"): self.trickle,
            ("GET", "/split"): self.split,
        }
        return Router(routes)


@contextlib.asynccontextmanager
async def site(
    limits: ClientLimits = LIMITS, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    here = Site()
    listener = Listener(here.router(), bind("127.0.0.1", 0), tls)
    here.port = listener.socket.getsockname()[1]
    async with serving([listener], stop_timeout_s=2, limits=limits):
        yield here


class Client:
    """A connection that says what it is told, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, here: Site) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", here.port, limit=1 << 26))

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.005 if len(parts) > 1 else 0)

    async def answer(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            body = b""
            if not bodiless and "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif not bodiless and "transfer-encoding" in headers:
                body = await self.reader.readuntil(b"0\r\n\r\n")
        return int(first.split()[1]), headers, body

    async def ended(self) -> bool:
        """Whether the server said that nothing more comes."""
        async with asyncio.timeout(60):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@contextlib.asynccontextmanager
async def client(here: Site) -> AsyncIterator[Client]:
    made = await Client.of(here)
    try:
        yield made
    finally:
        made.writer.close()
        with contextlib.suppress(ConnectionError):
            await made.writer.wait_closed()


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: here", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def told(body: bytes) -> str:
    """The message of an error in OpenAI's form."""
    message: str = orjson.loads(body)["error"]["message"]
    return message


# -- requests as they should be ----------------------------------------------------------


async def test_a_connection_is_kept_for_the_next_request() -> None:
    """As long as nobody says otherwise."""
    async with site() as here, client(here) as one:
        for body in (b"a", b"", b"c" * 200_000):
            await one.say(post("/echo", body))
            status, headers, found = await one.answer()
            assert (status, found, "connection" in headers) == (200, body, False)


async def test_a_request_may_come_one_byte_at_a_time() -> None:
    """Nothing depends on how the network cuts it."""
    async with site() as here, client(here) as one:
        for byte in post("/echo", b"slow but sure", "X-Name: dribble"):
            await one.say(bytes([byte]))
        assert (await one.answer())[2] == b"slow but sure"

    assert here.seen == ["dribble"]


async def test_requests_that_do_not_wait_are_answered_in_their_order() -> None:
    """Pipelined, and cut where it hurts."""
    async with site() as here, client(here) as one:
        here.hold.set()
        sent = post("/held", b"first") + b"".join(post("/echo", b"%d" % n) for n in range(30))
        await one.say(sent[:70], sent[70:75], sent[75:400], sent[400:])
        answers = [(await one.answer())[2] for _ in range(31)]

    assert answers == [b"held", *(b"%d" % n for n in range(30))]


async def test_a_chunked_body_arrives_whole_and_its_trailers_are_ignored() -> None:
    """A trailer is no header: it came after what headers decide."""
    async with site() as here, client(here) as one:
        await one.say(
            b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"2;x=y\r\nde\r\n0\r\nX-Name: trailer\r\n\r\n" + post("/echo", b"next"),
        )
        assert [(await one.answer())[2] for _ in range(2)] == [b"abcde", b"next"]

    assert here.seen == ["", ""]


async def test_a_client_that_expects_100_continue_gets_it() -> None:
    """`Expect: 100-continue`, as curl sends it with large bodies."""
    async with site() as here, client(here) as one:
        request = post("/echo", b"body", "Expect: 100-continue")
        await one.say(request[:-4])
        assert await one.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await one.say(request[-4:])
        assert (await one.answer())[2] == b"body"


async def test_a_client_that_expects_100_continue_may_be_refused_before_it_sends() -> None:
    """That is what asking is for."""
    async with site() as here, client(here) as one:
        await one.say(post("/refuse", b"body", "Expect: 100-continue")[:-4])
        status, headers, _ = await one.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert await one.ended()


async def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    """It is GET's; the next answer begins right behind it."""
    async with site() as here, client(here) as one:
        await one.say(b"HEAD /echo HTTP/1.1\r\nHost: here\r\n\r\n" + post("/echo", b"next"))
        status, headers, _ = await one.answer(bodiless=True)
        assert (status, headers["content-length"]) == (200, "0")
        assert (await one.answer())[2] == b"next"


async def test_an_answer_without_a_length_is_chunked() -> None:
    """Empty pieces would end it too soon."""
    async with site() as here, client(here) as one:
        await one.say(b"GET /stream HTTP/1.1\r\nHost: here\r\n\r\n" * 2)
        for _ in range(2):
            assert (await one.answer())[2] == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_old_clients_get_what_they_understand() -> None:
    """HTTP/1.0 knows no chunks, and its connections end with their answer."""
    async with site() as here:
        async with client(here) as one:
            await one.say(b"GET /stream HTTP/1.0\r\n\r\n")
            _, headers, _ = await one.answer(bodiless=True)
            assert (await one.reader.read(), headers) == (
                b"onetwo",
                headers | {"connection": "close"},
            )
        async with client(here) as one:
            await one.say(post("/echo", b"a", "Connection: keep-alive", version="1.0"))
            assert (await one.answer())[1]["connection"] == "close"
            assert await one.ended()


async def test_a_connection_ends_where_its_client_wants_it_to() -> None:
    """What comes after the last request is not looked at."""
    async with site() as here, client(here) as one:
        await one.say(post("/echo", b"last", "Connection: close") + post("/echo", b"too late"))
        _, headers, body = await one.answer()
        assert (headers["connection"], body) == ("close", b"last")
        assert await one.ended()

    assert len(here.seen) == 1


async def test_a_target_may_be_a_whole_address_and_escaped() -> None:
    """As clients send it to proxies."""
    async with site() as here, client(here) as one:
        await one.say(b"GET http://here/%65cho?x=1 HTTP/1.1\r\nHost: here\r\n\r\n")
        status, headers, _ = await one.answer()
        assert (status, headers["x-path"]) == (200, "/%65cho")


async def test_an_offer_of_another_protocol_is_passed_over() -> None:
    """Java's client offers HTTP/2 so, and takes the answer in HTTP/1.1."""
    offer = ("Connection: Upgrade", "Upgrade: h2c")
    async with site() as here, client(here) as one:
        await one.say(post("/echo", b"a", *offer) + post("/echo", b"b"))
        assert [(await one.answer())[2] for _ in range(2)] == [b"a", b"b"]


# -- clients that are slow, greedy or wrong ----------------------------------------------


async def test_slow_headers_are_answered_408() -> None:
    """A byte now and then does not help: they must be whole in time."""
    async with site(HASTY) as here, client(here) as one:
        with contextlib.suppress(ConnectionError):
            for byte in post("/echo", b"", f"X-Name: {'n' * 60}"):
                await one.say(bytes([byte]))
                await asyncio.sleep(0.005)
        status, _, body = await one.answer()
        assert (status, "headers" in told(body)) == (408, True)

    assert here.seen == []


async def test_a_slow_body_is_answered_408() -> None:
    """By the route that waits for it, so that whoever counts requests sees it."""
    async with site(HASTY) as here, client(here) as one:
        await one.say(post("/echo", b"whole body")[:-3])
        status, headers, body = await one.answer()
        assert (status, headers["connection"], "body" in told(body)) == (408, "close", True)
        assert await one.ended()


async def test_a_long_pause_in_a_large_body_is_answered_408() -> None:
    """What came of it would give it ten minutes."""
    async with site(HASTY) as here, client(here) as one:
        await one.say(post("/echo", b"x" * 900_000)[:-300_000])
        status, headers, body = await one.answer()
        assert (status, headers["connection"], "body" in told(body)) == (408, "close", True)
        assert await one.ended()


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS: dict[str, bytes] = {
    "one trailer": b"3\r\nabc\r\n0\r\nX-Trailer: ",
    "an extension": b"3\r\nabc\r\n3;x=",
}


@pytest.mark.parametrize("begun", ENDLESS.values(), ids=ENDLESS.keys())
async def test_trailers_without_an_end_are_answered_431(begun: bytes) -> None:
    """They are no headers, and just as long at most."""
    async with site() as here, client(here) as one:
        with contextlib.suppress(ConnectionError):
            await one.say(CHUNKED, begun, *(b"n" * 1500,) * 4)
        status, headers, body = await one.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert "trailers of a body may have 4096 bytes" in told(body)
        assert await one.ended()


async def test_a_body_in_very_small_chunks_is_one_like_others() -> None:
    """Most of what is read is around it."""
    async with site() as here, client(here) as one:
        await one.say(CHUNKED + b"1\r\na\r\n" * 20_000, b"0\r\n\r\n")
        assert (await one.answer())[2] == b"a" * 20_000


async def test_an_idle_connection_is_not_a_slow_one() -> None:
    """It may rest for longer than headers may take."""
    async with site(HASTY) as here, client(here) as one:
        for _ in range(2):
            await asyncio.sleep(0.3)
            await one.say(post("/echo", b"a"))
            assert (await one.answer())[0] == 200


GREEDY: dict[str, tuple[bytes, ...]] = {
    "one large header": (post("/echo", b"", f"X-Name: {'n' * 5000}"),),
    "many headers": (post("/echo", b"", *(f"X-{n}: n" for n in range(30))),),
    "a long target": (f"GET /{'p' * 5000} HTTP/1.1\r\n\r\n".encode(),),
    "no end": (b"GET /echo HTTP/1.1\r\n", b"X-Name: ", *(b"n" * 1500,) * 4),
}


@pytest.mark.parametrize("sent", GREEDY.values(), ids=GREEDY.keys())
async def test_too_many_headers_are_answered_431(sent: tuple[bytes, ...]) -> None:
    """In OpenAI's form, as any other error; then the connection ends."""
    async with site() as here, client(here) as one:
        await one.say(*sent)
        status, headers, body = await one.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert "4096 bytes and 20 headers" in told(body)
        assert await one.ended()

    assert here.seen == []


CONNECTS = [b"/", b"//x", b"http://x/", b"a://b:1", b"here:443"]


@pytest.mark.parametrize("target", CONNECTS)
async def test_connect_is_refused_and_nothing_hangs(target: bytes) -> None:
    """The parser stops at CONNECT, and whoever fed it the rest again would do so for ever."""
    async with site() as here, client(here) as one, client(here) as other:
        await one.say(b"CONNECT %b HTTP/1.1\r\nHost: here\r\n\r\nmore" % target)
        status, headers, body = await one.answer()
        assert (status, headers["connection"], "CONNECT" in told(body)) == (501, "close", True)
        assert await one.ended()
        await other.say(post("/echo", b"a"))
        assert (await other.answer())[0] == 200


@pytest.mark.parametrize(
    "coding", [b"gzip, chunked", b"identity", b"chunked\r\nTransfer-Encoding: br"]
)
async def test_codings_of_the_transfer_are_not_understood(coding: bytes) -> None:
    async with site() as here, client(here) as one:
        head = b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: %b\r\n\r\n" % coding
        await one.say(head + b"0\r\n\r\n")
        assert (await one.answer())[0] in {400, 501}
        assert await one.ended()


async def test_an_http_1_0_client_that_expects_100_continue_gets_no_interim_response() -> None:
    """HTTP/1.0 knows no answer before the answer (RFC 9110, 10.1.1)."""
    async with site() as here, client(here) as one:
        await one.say(post("/echo", b"body", "Expect: 100-continue", version="1.0"))
        assert (await one.answer())[2] == b"body"


async def test_answers_have_a_date_and_another_protocol_is_named() -> None:
    async with site() as here, client(here) as one, client(here) as two:
        await one.say(post("/echo", b"a"))
        assert (await one.answer())[1]["date"].endswith(" GMT")
        await two.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        status, headers, body = await two.answer()
        assert (status, "date" in headers, told(body)) == (
            505,
            True,
            "unsupported protocol version: expected HTTP/1.1, not HTTP/2.0",
        )


WRONG = {
    "no HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length and chunks": (
        b"POST /echo HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "no length": b"POST /echo HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
    "a space in a name": b"GET /echo HTTP/1.1\r\nBad Name : x\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: here\r\nHost: here\r\n\r\n",
    "a host that is none": b"GET /echo HTTP/1.1\r\nHost: a b@/\r\n\r\n",
    "a target that is none": b"GET echo HTTP/1.1\r\nHost: here\r\n\r\n",
    "chunks of HTTP/1.0": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", WRONG.values(), ids=WRONG.keys())
async def test_what_is_no_request_is_answered_400(sent: bytes) -> None:
    """In OpenAI's form; then the connection ends."""
    async with site() as here, client(here) as one:
        await one.say(sent)
        status, headers, body = await one.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert told(body)
        assert await one.ended()

    assert here.seen == []


async def test_a_wrong_request_does_not_take_the_place_of_an_answer() -> None:
    """What was asked before it is answered first."""
    async with site() as here, client(here) as one:
        await one.say(post("/held", b""), b"nonsense\r\n\r\n")
        here.hold.set()
        assert (await one.answer())[2] == b"held"
        assert (await one.answer())[0] == 400
        assert await one.ended()


async def test_nor_does_it_where_the_answer_has_no_body() -> None:
    async with site() as here, client(here) as one:
        await one.say(b"HEAD /held HTTP/1.1\r\nHost: here\r\n\r\n", b"nonsense\r\n\r\n")
        here.hold.set()
        assert (await one.answer(bodiless=True))[0] in {200, 405}
        assert (await one.answer())[0] == 400
        assert await one.ended()


async def test_a_body_that_is_no_body_is_answered_400_by_its_route() -> None:
    """Its chunks make no sense."""
    async with site() as here, client(here) as one:
        await one.say(
            b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\nzz\r\n"
        )
        assert (await one.answer())[0] == 400
        assert await one.ended()


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    """To close at once would take it away again."""
    async with site() as here, client(here) as one:
        await one.say(post("/refuse", b"x" * 900_000)[:-1])
        status, _, body = await one.answer()
        assert (status, told(body)) == (413, "not that much")
        assert await one.ended()


async def test_too_many_connections_are_answered_503() -> None:
    """Those that are open are served as before."""
    async with site(replace(LIMITS, connections=2)) as here, client(here) as one:
        await one.say(post("/echo", b"a"))
        assert (await one.answer())[0] == 200
        async with client(here) as two, client(here) as three:
            assert (await three.answer())[0] == 503
            assert await three.ended()
            for each in (one, two):
                await each.say(post("/echo", b"b"))
                assert (await each.answer())[0] == 200


async def test_far_too_many_connections_are_closed_without_an_answer() -> None:
    """Telling them so takes a moment and memory, too."""
    async with site(replace(LIMITS, connections=1)) as here, client(here), client(here) as two:
        async with client(here) as three:
            assert await three.ended()
        assert (await two.answer())[0] == 503


LEAVING: dict[str, Callable[[Client], None]] = {
    "closed": lambda one: one.writer.close(),
    "half closed": lambda one: one.writer.write_eof(),
    "reset": lambda one: one.writer.transport.abort(),
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING.keys())
async def test_a_client_that_leaves_is_noticed(leave: Callable[[Client], None]) -> None:
    """Half closed looks just like closed, and work for nobody must end."""
    async with site() as here, client(here) as one:
        await one.say(post("/held", b"a"))
        await asyncio.wait_for(here.begun.wait(), 60)
        leave(one)
        await asyncio.wait_for(here.gone.wait(), 60)


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten() -> None:
    """Its route hears that nobody is there; others are served."""
    async with site() as here, client(here) as other:
        async with client(here) as one:
            await one.say(post("/echo", b"whole")[:-2])
            await asyncio.sleep(0.02)
        await other.say(post("/echo", b"a"))
        assert (await other.answer())[0] == 200

    assert here.seen == [""]


async def test_a_client_that_does_not_read_is_not_kept_in_memory_for_ever() -> None:
    """The large answer waits in parts, and arrives when it is read."""
    async with site() as here:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", here.port))
        one = Client(*await asyncio.open_connection(sock=small, limit=1 << 26))
        await one.say(b"GET /pour HTTP/1.1\r\nHost: here\r\n\r\n" * 2)
        await asyncio.sleep(0.2)
        assert [len((await one.answer())[2]) for _ in range(2)] == [8 << 20] * 2
        one.writer.close()


async def test_no_header_can_be_injected_into_an_answer() -> None:
    """A line break in a value would begin one."""
    async with site() as here, client(here) as one:
        await one.say(b"GET /split HTTP/1.1\r\nHost: here\r\n\r\n")
        assert b"cookie" not in await one.reader.read()


# -- the end -----------------------------------------------------------------------------


async def test_a_stop_answers_what_was_asked_and_closes_what_rests() -> None:
    """Whoever waits gets its answer, and is told that it is the last one."""
    async with contextlib.AsyncExitStack() as stack:
        serving_site = site()
        here = await serving_site.__aenter__()
        resting, waiting = await Client.of(here), await Client.of(here)
        await waiting.say(post("/held", b"a"))
        await asyncio.wait_for(here.begun.wait(), 60)
        stop = asyncio.create_task(serving_site.__aexit__(None, None, None))
        assert await resting.ended()
        here.hold.set()
        status, headers, body = await waiting.answer()
        assert (status, headers["connection"], body) == (200, "close", b"held")
        assert await waiting.ended()
        await stop
        for one in (resting, waiting):
            stack.callback(one.writer.close)


@needs_ipv6
async def test_the_address_of_all_takes_both_families_and_old_addresses_look_as_ever() -> None:
    """`::` would be IPv6 alone; an IPv4 client is no mapped one to limits and logs."""
    seen: list[str] = []

    async def who(request: Request) -> Response:
        seen.append(request.scope["client"][0])
        return Response(b"")

    listener = Listener(Router({("GET", "/"): who}), bind("::", 0))
    port = listener.socket.getsockname()[1]
    async with serving([listener], stop_timeout_s=2):
        for host in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert b" 200 " in await reader.readline()
            writer.close()
    assert seen == ["127.0.0.1", "::1"]


async def test_what_is_pipelined_is_parsed_one_request_at_a_time() -> None:
    """The rest waits as bytes, and not more of them than are read at once; a client that leaves
    meanwhile is noticed."""
    async with site() as here, client(here) as one:
        await one.say(post("/held", b"first") + b"GET /echo HTTP/1.1\r\nHost: here\r\n\r\n" * 9)
        await asyncio.wait_for(here.begun.wait(), 60)
        await asyncio.sleep(0.1)  # for another one, were it parsed
        assert not here.seen
        one.writer.close()
        await asyncio.wait_for(here.gone.wait(), 60)
    assert not here.seen


async def test_blank_lines_before_a_request_are_passed_over_and_bounded() -> None:
    """Each pair of them looks like the end of a head, and would be parsed by itself."""
    ask = b"GET /echo HTTP/1.1\r\nHost: here\r\n\r\n"
    async with site() as here:
        async with client(here) as one:
            for blank in (b"\r\n", b"\n\n\r\n", b"\r\n" * 2000):
                await one.say(blank + ask)
                assert (await one.answer())[0] == 200
        async with client(here) as one:
            for _ in range(3):  # none of them alone is too much
                await one.say(b"\r\n" * 1000)
            assert (await one.answer())[0] == 431
