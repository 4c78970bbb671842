"""An engine, or what stands before it, that lies by HTTP: no text gets another one's vector, nobody
else is contacted, and the next request is answered as if nothing had been.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest

from embedfleet.models.description import ModelDescription
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.vocabulary import (
    DrainingError,
    Encoding,
    ReplicaError,
    Truncation,
    UnfitReplicaError,
)
from tests.fakes.revealing_engine import UNLUCKY, WIDTH, vector_of
from tests.server.gateway.replicas.third_party.attaching import attached, compute
from tests.stand_ins.openai import OpenAICompatible
from tests.stand_ins.server import model

Lie = Callable[[bytes], bytes]
"""What is sent in the place of an answer with this body."""

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def whole(body: bytes, head: bytes = OK) -> bytes:
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def changed(change: Callable[[list[dict[str, Any]]], object]) -> Lie:
    """Rows that are written otherwise."""

    def lie(body: bytes) -> bytes:
        document = orjson.loads(body)
        change(document["data"])
        return whole(orjson.dumps(document).replace(b'"1e39"', b"1e39"))

    return lie


def put(row: int, numbers: Any) -> Lie:
    return changed(lambda rows: rows[row].update(embedding=numbers))


def refusal(status: int, *headers: str) -> Lie:
    lines = "".join(f"{each}\r\n" for each in headers)
    return lambda _: whole(
        b'{"error":{"message":"no"}}', f"HTTP/1.1 {status} x\r\n{lines}".encode()
    )


COMPRESSED = gzip.compress(b"\0" * (1 << 24))

WRONG: dict[str, Lie] = {
    "one row of another width": put(1, [0.5, 0.5]),
    "an empty row": put(1, []),
    "a row of nothing": put(0, None),
    "a row of words": put(0, "NaN"),
    "an index twice": changed(lambda rows: rows[1].update(index=0)),
    "an index that is missing": changed(lambda rows: rows.pop()),
    "one row too many": changed(lambda rows: rows.append(dict(rows[0], index=len(rows)))),
    "an index beyond": changed(lambda rows: rows[0].update(index=10**9)),
    "an index below": changed(lambda rows: rows[0].update(index=-1)),
    "a redirect": refusal(302, "location: http://127.0.0.1:PORT/elsewhere"),
    "a redirect that keeps the method": refusal(308, "location: http://127.0.0.1:PORT/elsewhere"),
    "a bomb that is announced": lambda _: whole(COMPRESSED, OK + b"content-encoding: gzip\r\n"),
    "a bomb that is not": lambda _: whole(COMPRESSED),
    "a bomb in the coding of the transfer": lambda _: (
        OK + b"transfer-encoding: gzip\r\n\r\n" + COMPRESSED
    ),
    "a flood of interim responses": lambda _: b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
    "a flood of headers": lambda _: OK + b"x: y\r\n" * 100_000,
    "a head without an end": lambda _: b"HTTP/1.1 200 " + b"x" * 200_000,
    "a body without an end": lambda _: OK + b"\r\n" + b"[" * (1 << 23),
    "trailers without an end": lambda body: (
        (OK + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body))
        + b"x: y\r\n" * 100_000
    ),
    "a cut answer": lambda body: whole(body)[: -len(body) // 2],
    "a length beyond the end": lambda body: OK + b"content-length: 99999999\r\n\r\n" + body,
    "a length before the end": lambda body: OK + b"content-length: 9\r\n\r\n" + body,
    "two lengths": lambda body: OK + b"content-length: 3\r\n" + whole(body, b""),
    "a negative length": lambda body: OK + b"content-length: -1\r\n\r\n" + body,
    "a length and chunks": lambda body: OK + b"transfer-encoding: chunked\r\n" + whole(body, b""),
    "no content": lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": lambda _: b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "a part": lambda body: whole(body, b"HTTP/1.1 206 Partial Content\r\n"),
    "another protocol": lambda _: b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\nhello",
    "no HTTP": lambda _: b"SSH-2.0-x\r\n",
    "nothing": lambda _: b"",
    "a pause for ever": refusal(
        503,
        *(f"retry-after: {when}" for when in ("99999999999", "-1", "1e99", "\x01")),
        "retry-after: Fri, 31 Dec 9999 23:59:59 GMT",
    ),
}
"""Answers by which no text gets a vector."""

NOT_ALL: dict[str, Lie] = {
    "a row of numbers that no float holds": put(1, ["1e39"] * WIDTH),
    "a row of zeros": put(1, [0.0] * WIDTH),
    "a row of denormals": put(1, [1e-45] * WIDTH),
    "a row of null": put(1, [None] * WIDTH),
    "a row in another byte order": changed(
        lambda rows: rows[1].update(
            embedding=np.array(rows[1]["embedding"], "<f4").byteswap().tolist()
        )
    ),
}
"""Answers in which one text has none."""

RIGHT: dict[str, Lie] = {
    "rows that are not of unit length": changed(
        lambda rows: [each.update(embedding=[9 * x for x in each["embedding"]]) for each in rows]
    ),
    "another order": changed(lambda rows: rows.reverse()),
    "cookies": lambda body: whole(body, OK + b"set-cookie: a=b; Path=/\r\n"),
    "an answer to nobody behind it": lambda body: whole(body) + whole(b'{"data":[]}'),
    "the end of the connection": lambda body: OK + b"connection: close\r\n\r\n" + body,
}
"""Odd ones that are no lie."""


class Liar:
    """A proxy before an honest engine."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self.lie: Lie = whole
        self.closes = True
        """Whether the connection ends with a lie."""
        self.heads: list[bytes] = []
        self.port = 0
        self.meetings: set[asyncio.Task[None]] = set()

    def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.meetings.add(asyncio.create_task(self.meet(reader, writer)))

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append(head)
                    method, path, _ = head.split(b" ", 2)
                    fields = dict(
                        line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line
                    )
                    body = await reader.readexactly(int(fields.get(b"content-length", 0)))
                    async with (
                        aiohttp.ClientSession() as http,
                        http.request(
                            method.decode(), self._engine + path.decode(), data=body
                        ) as response,
                    ):
                        status, found = response.status, await response.read()
                    told = whole(found, b"HTTP/1.1 %d x\r\n" % status)
                    if method == b"POST" and self.lie is not whole:
                        told = self.lie(found).replace(b"PORT", b"%d" % self.port)
                    writer.write(told)
                    await writer.drain()
                    if method == b"POST" and self.lie is not whole and self.closes:
                        break
        finally:
            writer.close()


@pytest.fixture
def small(tmp_path: Path) -> ModelDescription:
    return model(tmp_path)


@contextlib.asynccontextmanager
async def lying(small: ModelDescription) -> AsyncIterator[tuple[Liar, str]]:
    engine = OpenAICompatible(directory=small.directory.parent)
    async with engine.running() as honest:
        liar = Liar(honest)
        async with await asyncio.start_server(liar.met, "127.0.0.1", 0) as server:
            liar.port = server.sockets[0].getsockname()[1]
            try:
                yield liar, f"http://127.0.0.1:{liar.port}"
            finally:
                for meeting in liar.meetings:
                    meeting.cancel()
                await asyncio.gather(*liar.meetings, return_exceptions=True)


def encodings(small: ModelDescription) -> list[Encoding]:
    sentences = [
        f"The river {name} flows." for name in ("Rhine", "Oder", "Po", "Don", "Ob", "Lena")
    ]
    encoded = Encoder(small).encode(sentences, prompt="", truncate=Truncation.NONE)
    return [each.ids for each in encoded if UNLUCKY not in each.ids]


def assert_right(vectors: np.ndarray, texts: list[Encoding]) -> None:
    """Of all texts that have one."""
    for vector, ids in zip(vectors, texts, strict=True):
        if not np.isnan(vector).any():
            assert float(vector @ vector_of(ids)) > 0.99999


@pytest.mark.parametrize("lie", WRONG)
async def test_an_engine_with_false_answers_gives_no_vectors(
    lie: str, small: ModelDescription
) -> None:
    texts = encodings(small)
    async with lying(small) as (liar, url), attached(small) as client, asyncio.timeout(60):
        await client.describe(url)
        liar.lie = WRONG[lie]
        with pytest.raises((ReplicaError, DrainingError)) as failed:
            await compute(client, url, texts, WIDTH)
        assert len(str(failed.value)) < 600
        assert not any(b"/elsewhere" in head for head in liar.heads)
        liar.lie = whole
        vectors, failures, _ = await compute(client, url, texts, WIDTH)
    assert not failures
    assert not np.isnan(vectors).any()
    assert_right(vectors, texts)


@pytest.mark.parametrize("lie", NOT_ALL)
async def test_a_row_that_is_no_vector_is_its_text_s_alone(
    lie: str, small: ModelDescription
) -> None:
    texts = encodings(small)
    async with lying(small) as (liar, url), attached(small) as client, asyncio.timeout(60):
        await client.describe(url)
        liar.lie = NOT_ALL[lie]
        vectors, failures, _ = await compute(client, url, texts, WIDTH)
    assert failures == {1: "invalid_vector"}
    assert_right(vectors, texts)


@pytest.mark.parametrize("written", [b"NaN", b"-Infinity"])
async def test_a_number_that_is_no_json_is_its_text_s_alone(
    written: bytes, small: ModelDescription
) -> None:
    """Python's own writer makes it of a vector that is not finite, in a whole answer."""
    texts = encodings(small)
    unlucky = orjson.dumps([float(number) for number in vector_of(texts[2])])
    async with lying(small) as (liar, url), attached(small) as client, asyncio.timeout(60):
        await client.describe(url)
        liar.closes = False
        liar.lie = lambda body: whole(body.replace(unlucky, b"[%b]" % written))
        vectors, failures, _ = await compute(client, url, texts, WIDTH)
    assert failures == {2: "invalid_vector"}
    assert_right(vectors, texts)


@pytest.mark.parametrize("odd", RIGHT)
async def test_what_is_odd_and_no_lie_is_taken(odd: str, small: ModelDescription) -> None:
    texts = encodings(small)
    async with lying(small) as (liar, url), attached(small) as client, asyncio.timeout(60):
        await client.describe(url)
        liar.lie = RIGHT[odd]
        for _ in range(3):
            vectors, failures, _ = await compute(client, url, texts, WIDTH)
            assert not failures
            assert not np.isnan(vectors).any()
            assert_right(vectors, texts)
        assert not any(b"cookie" in head.lower() for head in liar.heads)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_an_engine_that_asks_to_be_left_alone_is_asked_once(
    form: str, status: int, small: ModelDescription
) -> None:
    """However it says for how long."""
    texts = encodings(small)
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    lie = refusal(status, f"retry-after: {until if form == 'date' else 50}")
    async with lying(small) as (liar, url), attached(small) as client, asyncio.timeout(60):
        await client.describe(url)
        liar.lie = lie
        met = len(liar.heads)
        with pytest.raises(DrainingError, match=f"overloaded .{status}.: no$") as refused:
            await compute(client, url, texts, WIDTH)
        assert len(liar.heads) - met <= 1
        assert 10 < (refused.value.retry_after_s or 0) <= 50


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://other.example:8443/v1?token=secret", "https://other.example:8443"),
        ("https://user:secret@other.example/", "https://other.example"),
        ("/secret/v1/embeddings", "another path"),
        ("//[secret", "another address"),
        ("", "another address"),
    ],
)
async def test_a_redirect_is_a_fault_of_the_address_that_the_pool_has(
    location: str, named: str, status: int, small: ModelDescription
) -> None:
    """It says where to, and nothing that may be a secret; texts are not searched for the cause."""
    texts = encodings(small)
    async with lying(small) as (liar, url), attached(small) as client, asyncio.timeout(60):
        await client.describe(url)
        liar.lie = refusal(status, f"location: {location}")
        met = len(liar.heads)
        with pytest.raises(UnfitReplicaError) as raised:
            await compute(client, url, texts, WIDTH)
        assert len(liar.heads) == met + 1
        assert f"redirects to {named} ({status})" in raised.value.message
        assert "secret" not in raised.value.message
