"""A real gateway before its own replicas and third-party engines, good and bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import numpy as np
import pybase64
import pytest
from aiohttp import web
from numpy.typing import NDArray

from embedfleet.models.description import describe
from embedfleet.models.source import resolve
from tests.fakes.revealing_engine import UNLUCKY, vector_of
from tests.service import Service, started
from tests.stand_ins import gguf_file
from tests.stand_ins.openai import VLLM
from tests.stand_ins.rerankers import (
    INSTRUCTION,
    GatewayReranker,
    LlamaReranker,
    SGLangReranker,
    VLLMReranker,
    causal_model,
    logit_of,
    sigmoid,
)
from tests.stand_ins.server import StandIn, model
from tests.stand_ins.sglang import SGLang
from tests.stand_ins.tei import TEI

pytestmark = pytest.mark.slow

MODEL = os.environ.get("EMBEDFLEET_TEST_SERVICE", "builtin")
DEADLINE_S = 120


class Liar(SGLang):
    """Answers vectors that are of the right form and of another model."""

    def vector(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return super().vector([token for token in ids if token != UNLUCKY])


@contextlib.asynccontextmanager
async def service(log: Path, urls: list[str], command: list[str]) -> AsyncIterator[Service]:
    """The service, with replicas at these addresses; this loop goes on answering for them."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDFLEET_POOL_REPLICA_URLS", ",".join(urls))
        starting = started("", log=log, command=command)
        running = await asyncio.to_thread(starting.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def embed(session: aiohttp.ClientSession, url: str, texts: list[str]) -> np.ndarray:
    async with session.get(f"{url}/models") as answer:
        name = (await answer.json())["data"][0]["id"]
    body: dict[str, Any] = {"model": name, "input": texts, "encoding_format": "base64"}
    fresh = {"cache-control": "no-cache"}  # engines are to have work
    async with session.post(f"{url}/embeddings", json=body, headers=fresh) as answer:
        content = await answer.json()
        assert answer.status == 200, content
        rows = [pybase64.b64decode(one["embedding"]) for one in content["data"]]
        return np.stack([np.frombuffer(row, "<f4") for row in rows])


async def until(condition: Callable[[list[dict[str, Any]]], bool], running: Service) -> None:
    """Wait until the fleet's table is as wanted."""
    for _ in range(DEADLINE_S * 5):  # at least so many seconds
        fleet = await asyncio.to_thread(running.fleet)
        if condition(fleet):
            return
        await asyncio.sleep(0.2)
    raise TimeoutError(f"{fleet}\n{running.log.read_text()}")


async def test_engines_that_can_not_serve_get_no_traffic_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    """One lies, one wants a key, one answers nonsense, one has a short context; all say so."""
    small = model(tmp_path)
    width = describe(resolve(MODEL, progress=False).directory).identity
    common: dict[str, Any] = {"directory": small.directory.parent}
    bad: dict[str, StandIn] = {
        "other weights or another model": Liar(
            **common, width=width.width, context=width.max_tokens
        ),
        "requires an API key": VLLM(**common, key="secret"),
        "no supported engine answers": TEI(**common, nonsense="html"),
        "takes texts of at most 7 tokens": VLLM(**common, context=7),
    }
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(engine.running()) for engine in bad.values()]
        command = ["serve", MODEL, "--replicas", "1"]
        running = await stack.enter_async_context(service(tmp_path / "log", urls, command))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        def settled(fleet: list[dict[str, Any]]) -> bool:
            reasons = {each["url"]: f"{each['state']}: {each['reason']}" for each in fleet}
            return all(
                reasons[url].startswith("ejected") and reason in reasons[url]
                for url, reason in zip(urls, bad, strict=True)
            )

        await until(settled, running)
        met = [len(engine.bodies) for engine in bad.values()]
        texts = [f"text {number} of the sea" for number in range(40)]
        for _ in range(5):
            vectors = await embed(session, running.base_url, texts)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        # Nothing but another look, which an end of an ejection may have brought.
        assert all(
            len(engine.bodies) - before <= 2
            for engine, before in zip(bad.values(), met, strict=True)
        )
        assert "secret" not in running.log.read_text()


def nothing_of(running: Service, metric: str) -> bool:
    return running.measured(metric) == 0


class Changing(VLLM):
    """Becomes another engine while it runs."""

    fault = ""

    async def wait(self) -> web.Response | None:
        if self.fault == "hangs":  # and never answers what it was asked then
            await asyncio.Event().wait()
        if self.fault == "redirects":
            headers = {"location": "https://elsewhere.example/?token=secret"}
            return web.Response(status=307, headers=headers)
        if self.fault == "wants a key":
            return self.error(401, "no")
        return await super().wait()


FAULTS = {
    "hangs": "",
    "redirects": "redirects to https://elsewhere.example (307)",
    "wants a key": "requires an API key (401)",
}
"""What an engine does, and what is said of it."""


async def test_engines_that_become_bad_get_no_traffic_and_are_back_once_they_are_well(
    tmp_path: Path,
) -> None:
    """All at once, beside as many good ones. Callers get right vectors, and nothing of it is left
    in the gauges.
    """
    small = model(tmp_path)
    common: dict[str, Any] = {"directory": small.directory.parent}
    good = [VLLM(**common) for _ in FAULTS]
    bad = [Changing(**common) for _ in FAULTS]
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(engine.running()) for engine in [*good, *bad]]
        command = ["gateway", "--model", str(small.directory)]
        running = await stack.enter_async_context(service(tmp_path / "log", urls, command))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await until(lambda fleet: {each["state"] for each in fleet} == {"ready"}, running)
        stopped = asyncio.Event()

        words = ("the", "river", "flows", "to", "sea", "capital", "of", "mountain")

        async def client(seed: int) -> None:
            dice = Random(seed)
            while not stopped.is_set():
                texts = [" ".join(dice.choices(words, k=6)) for _ in range(3)]
                right = np.stack([vector_of(good[0].ids(text)) for text in texts])
                vectors = await embed(session, running.base_url, texts)
                assert (vectors * right).sum(1).min() > 0.9999

        asking = [asyncio.create_task(client(number)) for number in range(4)]
        for engine, fault in zip(bad, FAULTS, strict=True):
            engine.fault = fault
        reasons = dict(zip(urls[len(good) :], FAULTS.values(), strict=True))

        def out(fleet: list[dict[str, Any]]) -> bool:
            seen = {each["url"]: each for each in fleet}
            return all(
                seen[url]["state"] == "ejected" and reason in seen[url]["reason"]
                for url, reason in reasons.items()
                if reason
            ) and all(seen[url]["state"] != "ready" for url in reasons)

        await until(out, running)
        assert not any(task.done() for task in asking)
        for engine in bad:
            engine.fault = ""
        await until(lambda fleet: {each["state"] for each in fleet} == {"ready"}, running)
        stopped.set()
        await asyncio.gather(*asking)
        for kept in ("active_requests", r"queued_tokens{.*}", r"replica_outstanding_tokens{.*}"):
            nothing = partial(nothing_of, running, kept)
            await asyncio.to_thread(running.until, f"no more {kept}", nothing)
        told = running.log.read_text()
        assert "secret" not in told
        assert "Traceback" not in told


async def test_a_gateway_serves_from_engines_of_three_kinds_while_one_dies(tmp_path: Path) -> None:
    """Every answer is right, and no request is lost."""
    small = model(tmp_path)
    common: dict[str, Any] = {"directory": small.directory.parent}
    engines = [SGLang(**common), VLLM(**common), TEI(**common)]
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(engine.running()) for engine in engines]
        command = ["gateway", "--model", str(small.directory)]
        running = await stack.enter_async_context(service(tmp_path / "log", urls, command))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await until(lambda fleet: [each["state"] for each in fleet] == ["ready"] * 3, running)
        texts = [f"the {word} flows to the sea" for word in ("river", "capital", "mountain")]
        right = np.stack([vector_of(engines[1].ids(text)) for text in texts])

        async def client() -> None:
            for _ in range(30):
                vectors = await embed(session, running.base_url, texts)
                assert (vectors * right).sum(1).min() > 0.9999

        asking = [asyncio.create_task(client()) for _ in range(8)]
        await all_work(engines, asking)
        await engines[1].die()
        await asyncio.gather(*asking)


async def all_work(engines: Sequence[StandIn], asking: Sequence[asyncio.Task[None]]) -> None:
    """Return while clients ask and when each engine has computed for them."""
    before = [len(engine.bodies) for engine in engines]
    while any(len(each.bodies) <= met for each, met in zip(engines, before, strict=True)):
        assert not all(each.done() for each in asking), "one of them had no work"
        await asyncio.sleep(0.005)


def rerank(running: Service, body: dict[str, Any]) -> tuple[int, Any]:
    return running.post("/v1/rerank", {"model": "small", **body})


def scores_of(answer: dict[str, Any]) -> list[float]:
    found = {each["index"]: each["relevance_score"] for each in answer["results"]}
    return [found[place] for place in range(len(found))]


async def test_a_gateway_reranks_by_engines_of_four_kinds_while_they_fail(tmp_path: Path) -> None:
    """Every pair has its own score whoever computed it: one engine dies, one sheds load, one begins
    to cut pairs. An instruction that one of them does not take is computed by the others, and the
    contract of a reranker holds.
    """
    small = causal_model(tmp_path)
    common: dict[str, Any] = {"directory": small.directory.parent}
    vllm, sglang = VLLMReranker(**common), SGLangReranker(**common)
    llama, gateway = LlamaReranker(**common), GatewayReranker(**common)
    for engine in (vllm, sglang, llama, gateway):
        engine.unlucky = False
    engines: list[StandIn] = [vllm, sglang, llama, gateway]
    words = ["river", "capital", "mountain", "sea", "sky", "answer", "passage", "query"]

    def right(query: str, documents: list[str], instruction: str = INSTRUCTION) -> list[float]:
        pairs = [vllm.pair(query, document, instruction) for document in documents]
        return [sigmoid(logit_of(pair)) for pair in pairs]

    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(engine.running()) for engine in engines]
        command = ["gateway", "--model", str(small.directory)]
        running = await stack.enter_async_context(service(tmp_path / "log", urls, command))
        await until(lambda fleet: [each["state"] for each in fleet] == ["ready"] * 4, running)

        async def client(number: int) -> None:
            for turn in range(12):
                query = f"the {words[number]} and the {words[turn % 8]}"
                documents = [f"the {word} flows from {words[number]} {turn}" for word in words]
                expected = right(query, documents)
                body = {"query": query, "documents": documents}
                status, answer = await asyncio.to_thread(rerank, running, body)
                assert status == 200, answer
                np.testing.assert_allclose(scores_of(answer), expected, atol=1e-5)

        asking = [asyncio.create_task(client(number)) for number in range(8)]
        await all_work(engines, asking)
        await vllm.die()
        sglang.busy = 3
        llama.nonsense = "cut"
        await asyncio.gather(*asking)

        llama.nonsense = ""
        told = "Find what is near"
        body = {"query": "the sky", "documents": words, "instruction": told}
        for _ in range(4):
            status, answer = await asyncio.to_thread(rerank, running, body)
            assert status == 200, answer
            np.testing.assert_allclose(scores_of(answer), right("the sky", words, told), atol=1e-5)
        report = await asyncio.to_thread(conformance, running)
        assert not report, report


def conformance(running: Service) -> str:
    """What of the contract of a reranker does not hold."""
    command = [sys.executable, "-m", "embedfleet", "conformance", running.base_url]
    done = subprocess.run(
        [*command, "--model", "small"], capture_output=True, text=True, timeout=300, check=False
    )
    return done.stdout + done.stderr if done.returncode else ""


async def test_llama_cpp_is_started_as_a_local_replica(tmp_path: Path) -> None:
    """`--engine llamacpp`: the printed command, run; its vectors pass the golden check."""
    program = os.environ.get("EMBEDFLEET_TEST_LLAMA_SERVER") or shutil.which("llama-server")
    if not program:
        pytest.skip("llama-server is not installed; `make llama-server` builds it (ten minutes)")
    found = resolve(MODEL, progress=False).directory
    directory = tmp_path / "model"
    shutil.copytree(found, directory)
    gguf_file.write(describe(found), directory / "model.gguf")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{Path(program).parent}:{os.environ['PATH']}")
        environment.setenv("EMBEDFLEET_LAUNCH_GPUS", "1")
        command = ["serve", str(directory), "--engine", "llamacpp", "--replicas", "1"]
        running = await asyncio.to_thread(
            (starting := started("", log=tmp_path / "log", command=command)).__enter__
        )
    try:
        async with aiohttp.ClientSession() as session:
            vectors = await embed(session, running.base_url, ["How are you?", "The sea is blue."])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert running.fleet()[0]["engine"].startswith("llama.cpp")
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)
