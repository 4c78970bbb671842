"""What one caller can make a gateway hold, and what it answers beyond that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from embedfleet.runtime.settings import GatewaySettings, Settings
from embedfleet.transport.serving import ClientLimits
from tests.transport.access.gateway import MODEL, Running, running


def limited(**limits: Any) -> Settings:
    return replace(Settings(), gateway=GatewaySettings(**limits))


def body(text: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": text}).encode()


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    error: dict[str, Any] = (await answer.json())["error"]
    return error


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_is_refused_whether_it_says_so_or_not(
    tmp_path: Path, *, chunked: bool
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with running(tmp_path, limited(max_body_bytes=10_000)) as service:
        sent = parts() if chunked else b" " * 100_000
        async with service.http.post(f"{service.url}/v1/embeddings", data=sent) as answer:
            assert answer.status == 413
            assert (await error_of(answer))["code"] == "body_too_large"


async def test_a_body_that_only_claims_to_be_too_large_is_refused_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n"
        writer.write(head)
        async with asyncio.timeout(60):
            assert b" 413 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_more_texts_than_allowed_are_refused_with_the_limit(tmp_path: Path) -> None:
    async with running(tmp_path, limited(max_texts=2)) as service, service.client() as client:
        await client.embeddings.create(model=MODEL, input=["a", "b"])
        with pytest.raises(openai.BadRequestError, match="2") as refused:
            await client.embeddings.create(model=MODEL, input=["a", "b", "c"])
    assert refused.value.param == "input"


async def test_a_text_beyond_the_models_limit_is_refused_by_its_place(tmp_path: Path) -> None:
    async with running(tmp_path) as service, service.client() as client:
        longest = service.gateway.models[MODEL].identity.max_tokens
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model=MODEL, input=[[5], [5] * longest])
    assert refused.value.code == "context_length_exceeded"
    assert "input[1]" in refused.value.message


@pytest.mark.parametrize(
    "limits",
    [{"max_queued_bytes": 3000, "max_body_bytes": 3000}, {"max_queued_tokens": 40}],
    ids=["bytes", "tokens"],
)
async def test_what_all_callers_hold_at_once_is_bounded(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    """The first request is let in, also where it is all that there is room for."""
    async with running(tmp_path, limited(**limits)) as service:
        service.engine.go_on.clear()
        url = f"{service.url}/v1/embeddings"
        first = asyncio.create_task(answered(service, url, body([[5] * 30]) + b" " * 2000))
        async with asyncio.timeout(60):
            while not service.gateway.pools[0].waiting_tokens:
                await asyncio.sleep(0.005)
        async with service.http.post(url, data=body([[6] * 30]) + b" " * 2000) as refused:
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert (await error_of(refused))["code"] == "overloaded"
        service.engine.go_on.set()
        assert await first == 200
        assert await answered(service, url, body([[6] * 30])) == 200


async def test_bodies_are_counted_while_they_come(tmp_path: Path) -> None:
    """Those of many slow senders would fill the memory together, before any is whole."""
    sent = body([[5] * 30])
    sent += b" " * (3000 - len(sent))
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 3000\r\n\r\n"
    async with running(tmp_path, limited(max_queued_bytes=3000, max_body_bytes=3000)) as service:
        url = f"{service.url}/v1/embeddings"
        intake = service.gateway.endpoint._intake
        reader, writer = await asyncio.open_connection(*url.split("/")[2].split(":"))
        writer.write(head + sent[:2000])
        async with asyncio.timeout(60):
            while intake._held_bytes != 2000:
                await asyncio.sleep(0.005)
            assert await answered(service, url, sent[:2000]) == 429
            writer.write(sent[2000:])
            assert b" 200 " in await reader.readline()
            assert intake._held_bytes == 0
            writer.write(head + sent[:2000])
            while intake._held_bytes != 2000:
                await asyncio.sleep(0.005)
            writer.close()
            while intake._held_bytes:  # who leaves gives it back
                await asyncio.sleep(0.005)
        assert await answered(service, url, sent) == 200


async def test_endless_senders_are_disconnected_and_delay_no_other(
    tmp_path: Path,
) -> None:
    limits = ClientLimits(head_s=0.5, body_s=0.5)
    half_a_head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\n"
    half_a_body = half_a_head + b"content-length: 1000\r\n\r\n{"
    async with running(tmp_path, clients=limits) as service, service.client() as client:
        host, port = service.url.removeprefix("http://").split(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        for number, (_, writer) in enumerate(slow):
            writer.write(half_a_body if number % 2 else half_a_head)
        await client.embeddings.create(model=MODEL, input="meanwhile")
        async with asyncio.timeout(60):
            answers = [await reader.read() for reader, _ in slow]  # to the end: they are closed
        assert all(b" 408 " in told.partition(b"\r\n")[0] for told in answers)
        for _, writer in slow:
            writer.close()
            await writer.wait_closed()


async def answered(service: Running, url: str, sent: bytes) -> int:
    async with service.http.post(url, data=sent) as answer:
        return answer.status


@pytest.mark.parametrize(
    "headers",
    [
        {"x-large": "a" * 100_000},
        {f"x-{number}": "a" for number in range(2000)},
    ],
    ids=["one large header", "many headers"],
)
async def test_headers_beyond_the_limit_are_refused(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(tmp_path) as service:
        async with service.http.get(f"{service.url}/v1/models", headers=headers) as answer:
            assert answer.status == 431
        async with service.http.get(f"{service.url}/v1/models") as answer:
            assert answer.status == 200
