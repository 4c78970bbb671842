"""Pages of a replica that are too long, endless or slow, and files that are not what was said."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.fingerprint import fingerprint_tokenizer
from embedfleet.runtime.settings import Pool
from embedfleet.server.gateway.pools.model import ModelContact
from embedfleet.server.gateway.pools.scratch import Scratch
from embedfleet.server.gateway.replicas.attached import Attached
from embedfleet.server.gateway.replicas.third_party.client import ThirdPartyClient
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp
from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.transport.description import ReplicaDescription, encode_description
from embedfleet.transport.frames import CallText, Frame, encode_frame
from embedfleet.vocabulary import Precision, ReplicaError, ReplicaState
from tests.small_tokenizer import write_model
from tests.transport.access.gateway import MODEL, running

Answer = Callable[[str], AsyncIterator[bytes]]
"""Bytes of an answer, by the request's path, as they are sent."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A server that sends whatever it is told, to each request."""
    meetings: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                async for part in answer(head.split()[1].decode()):
                    writer.write(part)
                    await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meetings.add(asyncio.create_task(meet(reader, writer)))

    server = await asyncio.start_server(met, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for meeting in meetings:
            meeting.cancel()
        await asyncio.gather(*meetings, return_exceptions=True)


@contextlib.asynccontextmanager
async def upstream(probe_timeout_s: float = 5.0) -> AsyncIterator[Upstream]:
    opened = Upstream.open(connect_timeout_s=5, probe_timeout_s=probe_timeout_s)
    yield opened
    opened.close()


async def large(_path: str) -> AsyncIterator[bytes]:
    """A page that says that it has 100 MiB."""
    yield HEAD + b"content-length: 104857600\r\n\r\n["
    while True:
        yield b"[]," * 10_000


async def endless(_path: str) -> AsyncIterator[bytes]:
    """A page that says nothing of its length, and does not end."""
    yield HEAD + b"\r\n["
    while True:
        yield b"[]," * 10_000


async def dripping(_path: str) -> AsyncIterator[bytes]:
    """A page that always has another byte."""
    yield HEAD + b"\r\n["
    while True:
        yield b" "
        await asyncio.sleep(0.02)


async def interim(_path: str) -> AsyncIterator[bytes]:
    """Interim responses before a page, without end."""
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 1000


async def headers(_path: str) -> AsyncIterator[bytes]:
    """A page whose headers do not end."""
    yield HEAD
    while True:
        yield b"x: y\r\n" * 1000


async def trailers(_path: str) -> AsyncIterator[bytes]:
    """A page after which trailers come without end."""
    yield HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    while True:
        yield b"x: y\r\n" * 1000


async def extensions(_path: str) -> AsyncIterator[bytes]:
    """A page whose first chunk has an extension without end."""
    yield HEAD + b"transfer-encoding: chunked\r\n\r\n2;x="
    while True:
        yield b"y" * 10_000


async def compressed(_path: str) -> AsyncIterator[bytes]:
    """A page that is compressed although that was not asked for."""
    body = gzip.compress(b"{}")
    yield HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


ALL = [large, endless, dripping, interim, headers, trailers, extensions, compressed]


@pytest.fixture
def small(tmp_path: Path) -> ModelDescription:
    return describe(write_model(tmp_path / "small", hidden_size=8))


@pytest.mark.parametrize("page", ALL)
async def test_a_page_ends_within_bounds_of_size_and_time(page: Answer, tmp_path: Path) -> None:
    """Of whatever kind of replica, and for whatever is asked."""
    async with answering(page) as url, upstream(0.5) as own, asyncio.timeout(60):
        http = EngineHttp(own.connections, 0.5)
        with pytest.raises(ReplicaError):
            await own.describe(url)
        with pytest.raises(ReplicaError):
            await http.get(f"{url}/v1/models")
        with pytest.raises(ReplicaError):
            await http.post(f"{url}/v1/embeddings", b"{}", 4096, 0.5)
        with pytest.raises(ReplicaError):
            await Attached(own, None, http).describe(url)
        if page is not dripping:  # files have a minute
            with pytest.raises(ReplicaError):
                await own.fetch_files(url, tmp_path)


@pytest.mark.parametrize("page", [large, endless])
async def test_frames_are_no_larger_than_their_texts_need(page: Answer) -> None:
    async def frames(_path: str) -> AsyncIterator[bytes]:
        yield HEAD + b"\r\n" + (2**31).to_bytes(4, "little")
        async for part in page(""):
            yield part

    async with answering(frames) as url, upstream() as own, asyncio.timeout(60):
        with pytest.raises(ReplicaError, match="more than"):
            await own.work(url, "key", [CallText(0, b"\1\0\0\0", False, 0)], lambda _: None)


async def test_frames_that_answer_nothing_do_not_keep_a_call_alive() -> None:
    async def frames(_path: str) -> AsyncIterator[bytes]:
        yield HEAD + b"\r\n"
        while True:
            yield encode_frame(Frame([], b"", [], 0, 0, 1))
            await asyncio.sleep(0.05)

    async with answering(frames) as url, upstream() as own, asyncio.timeout(60):
        with pytest.raises(ReplicaError, match="a frame without answers"):
            await own.work(url, "key", [CallText(0, b"\1\0\0\0", False, 0)], lambda _: None)


async def test_an_engine_with_odd_pages_is_an_error_at_most(small: ModelDescription) -> None:
    """Fields of other types than they should have, in each page."""
    pages = (b'{"data":[{"owned_by":[1],"id":{"a":1}}]}', b'{"model_id":[],"model_type":[[]]}')
    for body in (*pages, b"[" * 1000 + b"]" * 1000, b"7", b'"x"'):

        async def answer(_path: str, body: bytes = body) -> AsyncIterator[bytes]:
            yield HEAD + b"content-length: %d\r\n\r\n" % len(body) + body

        async with answering(answer) as url, upstream() as own, asyncio.timeout(60):
            http = EngineHttp(own.connections, 5)
            third_party = ThirdPartyClient(
                http, small, precision=None, window_tokens=100, metrics_required=False
            )
            with pytest.raises(ReplicaError):
                await Attached(own, third_party, http).describe(url)


def description(tokenizer: str) -> ReplicaDescription:
    return ReplicaDescription(
        name="m",
        served_names=["m"],
        revision="0" * 32,
        tokenizer=tokenizer,
        width=8,
        max_tokens=100,
        vocabulary=50,
        prompts={},
        precision=Precision.F32,
        device="cpu",
        batch_tokens=64,
        window=128,
        cost=(1e-3, 1e-5, 0.0),
        draining=False,
    )


async def ignored(_model: ModelDescription, _encoder: Encoder) -> None:
    """Nobody serves it."""


def contact(own: Upstream, scratch: Path) -> ModelContact:
    return ModelContact(
        Pool(),
        own,
        Scratch(scratch),
        known=None,
        introduced=ignored,
        refused=lambda: None,
        drifted=lambda _: None,
    )


def files_of(model: ModelDescription, told: ReplicaDescription) -> Answer:
    """A replica that hands over a model's files, and says what it says."""

    async def answer(path: str) -> AsyncIterator[bytes]:
        body = encode_description(told)
        if path != "/v1/replica":
            file = model.directory / path.removeprefix("/v1/replica/files/")
            if not file.is_file():
                yield b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
                return
            body = file.read_bytes()
        yield HEAD + b"content-length: %d\r\n\r\n" % len(body) + body

    return answer


async def test_files_of_a_replica_are_written_where_the_gateway_says(
    small: ModelDescription, tmp_path: Path
) -> None:
    """Into a directory of a name that nobody else chose."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    told = description(fingerprint_tokenizer(small.directory))
    async with answering(files_of(small, told)) as url, upstream() as own:
        expected = await contact(own, scratch).expected(url, await own.describe(url))

    assert expected.identity.tokenizer == told.tokenizer
    assert expected.identity.vocabulary == small.identity.vocabulary
    (made,) = scratch.glob("*/*")
    assert made.name.startswith("model-")


@pytest.mark.parametrize("tokenizer", ["../victim", "/root/victim", "0" * 32])
async def test_files_that_are_not_what_was_said_are_left_nowhere(
    small: ModelDescription, tmp_path: Path, tokenizer: str
) -> None:
    """Neither those of a path that was told as a fingerprint, nor those of another tokenizer."""
    scratch = tmp_path / "inner" / "scratch"
    scratch.mkdir(parents=True)
    before = everything(tmp_path)
    told = description(tokenizer)
    async with answering(files_of(small, told)) as url, upstream() as own:
        with pytest.raises(ReplicaError, match="model files"):
            await contact(own, scratch).expected(url, told)

    assert everything(tmp_path) == before


def everything(directory: Path) -> list[Path]:
    """All files, and all directories but an empty one of a gateway's own."""
    return sorted(path for path in directory.rglob("*") if "embedfleet-" not in path.name)


async def test_a_harmful_tokenizer_is_loaded_once(small: ModelDescription, tmp_path: Path) -> None:
    """Each look could cost half a minute of a processor."""
    path = small.directory / "tokenizer.json"
    definition = msgspec.json.decode(path.read_bytes())
    definition["normalizer"] = {"type": "Prepend", "prepend": "z" * 100_000}
    path.write_bytes(msgspec.json.encode(definition))
    told = description(fingerprint_tokenizer(small.directory))
    async with answering(files_of(small, told)) as url, upstream() as own:
        one = contact(own, tmp_path)
        for _ in range(2):
            with pytest.raises(ReplicaError, match="tokenizer makes") as refused:
                await one.expected(url, told)

    assert str(tmp_path) not in refused.value.message


async def test_a_replica_does_not_take_over_the_name_of_another_pool(tmp_path: Path) -> None:
    """It is kept out of traffic, and the fleet's table says why."""
    async with running(tmp_path) as service:
        model = describe(tmp_path / "model")
        served = service.gateway.models[MODEL]
        told = description(fingerprint_tokenizer(model.directory))
        told = msgspec.structs.replace(told, name=MODEL, width=model.identity.width)
        async with answering(files_of(model, told)) as url:
            service.gateway.add_pool(Pool(replicas=0, replica_urls=(url,)), None)
            (member,) = service.gateway.pools[-1].fleet
            async with asyncio.timeout(60):
                while member.state is ReplicaState.STARTING:
                    await asyncio.sleep(0.02)

            assert member.state is ReplicaState.EJECTED
            assert "which pools[0] serves: give pools[1] served_names" in member.reason
            assert service.gateway.models[MODEL] is served
            async with service.client() as client:
                answer = await client.embeddings.create(model=MODEL, input="the sea")
            assert len(answer.data) == 1
