"""The stand-in for SGLang answers as SGLang was recorded to answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.stand_ins.server import model
from tests.stand_ins.sglang import SGLang, recording

REPLAYED = [
    pytest.param(name, number, id=f"{name} {number}")
    for name in ("default", "fast-path")
    for number, row in enumerate(recording(name))
]
CONTEXT = 32_768


def sent(row: dict[str, Any]) -> bytes | None:
    """The bytes of a recorded request; what was too long to record is made anew."""
    body = row["request"]["body"]
    if body is None:
        return None
    if isinstance(body, str):
        return body.encode("latin-1")
    if body.get("input") == "<str of 300000>":
        body = body | {"input": "a" * 300_000}
    if body.get("input") == "<list of 3000>":
        body = body | {"input": [f"text {number}" for number in range(3000)]}
    return json.dumps(body).encode()


def shape(value: Any) -> Any:
    """What two answers must share: fields, types and lengths, not vectors, counts and times."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items() if key != "data"}
    return type(value)


@pytest.mark.parametrize(("name", "number"), REPLAYED)
async def test_a_recorded_request_gets_an_answer_like_the_recorded_one(
    tmp_path: Path, name: str, number: int
) -> None:
    """Status, fields, and the message of an error, up to what a validator lists."""
    row = recording(name)[number]
    model(tmp_path)
    engine = SGLang(
        directory=tmp_path,
        name="qwen3-embedding-0.6b",
        matryoshka=name == "fast-path",
        context=CONTEXT,
        width=1024,
        byte_level=True,
    )
    request = row["request"]
    method = "GET" if request["method"] == "GET" else "POST"
    async with engine.running() as url, aiohttp.ClientSession() as session:
        if row["status"] is None:
            if request["body"] == {"model": "qwen3-embedding-0.6b", "input": [1_000_000_000]}:
                with pytest.raises(aiohttp.ClientError):
                    await session.post(url + request["path"], data=sent(row))
            with pytest.raises(aiohttp.ClientError):
                await dead(engine, session, url)
            return
        async with session.request(method, url + request["path"], data=sent(row)) as answer:
            assert answer.status == row["status"]
            recorded = row["body"]
            if not isinstance(recorded, dict):
                return
            given = await answer.json()
    assert shape(given) == shape(recorded)
    if answer.status != 200 and "[" not in recorded.get("message", "["):
        assert given["message"] == recorded["message"]
    if "data" in given and "embedding" in given["data"][0]:
        first = recorded["data"][0]["embedding"]
        assert first[-1] == f"... {len(given['data'][0]['embedding'])} numbers, type float"


async def dead(engine: SGLang, session: aiohttp.ClientSession, url: str) -> None:
    """Ask after the request that kills it."""
    await engine.die()
    await session.get(f"{url}/health")


def test_recorded_vectors_are_bf16_numbers() -> None:
    """As the stand-in's are: the lower half of each float is zero."""
    for row in recording("default"):
        body = row["body"]
        if isinstance(body, dict) and "data" in body and "embedding" in body["data"][0]:
            numbers = np.array(body["data"][0]["embedding"][:4], np.float32)
            assert not (numbers.view(np.uint32) & 0xFFFF).any()
