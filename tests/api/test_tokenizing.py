"""Tokenising for many at once: a tokenizer of no known kind makes only its own callers wait."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from embedfleet.api.formats.embedding_request import EmbeddingRequest
from embedfleet.api.served_model import ServedModel
from embedfleet.api.tokenizing import INLINE_CHARACTERS, Tokenizing
from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import EncodedText, Encoder
from embedfleet.models.tokenizer_library import TokenizerError
from embedfleet.scheduling.texts import Caller
from embedfleet.vocabulary import Lane
from tests.fakes.asking import RevealingBackend
from tests.processes import living_children
from tests.small_tokenizer import write_model

SHORT, LONG = "The sea", "The river flows to the sea. " * 1_000
PATIENCE_S = 60.0


def unusual(directory: Path) -> Path:
    """A model with a part that is not known: it replaces what no text has."""
    path = write_model(directory) / "tokenizer.json"
    definition = orjson.loads(path.read_bytes())
    replacing = {"type": "Replace", "pattern": {"Regex": "\\x{10FFFE}{7}"}, "content": ""}
    parts = [replacing, definition["normalizer"]]
    definition["normalizer"] = {"type": "Sequence", "normalizers": parts}
    path.write_bytes(orjson.dumps(definition))
    return directory


def served(directory: Path) -> ServedModel:
    description = describe(directory)
    return ServedModel(
        description.identity, ("one",), Encoder(description), RevealingBackend(), created=0
    )


@pytest.fixture
def known(tmp_path: Path) -> ServedModel:
    return served(write_model(tmp_path / "known"))


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[ServedModel]:
    model = served(unusual(tmp_path / "foreign"))
    assert not model.encoder.linear
    yield model
    model.encoder.close()


@pytest.fixture
def tokenizing() -> Iterator[Tokenizing]:
    one = Tokenizing(1, 1 << 24)
    yield one
    one.close()


async def tokens(tokenizing: Tokenizing, model: ServedModel, *texts: str) -> list[int]:
    """The number of tokens of each text, for somebody with time."""
    parsed = EmbeddingRequest(model="one", inputs=texts)
    caller = Caller(Lane.INTERACTIVE, time.monotonic() + PATIENCE_S)
    found = await tokenizing.encode(model, parsed, texts, caller, lambda _: None)
    return [len(one.ids) for one in found if isinstance(one, EncodedText)]


def process_of(model: ServedModel, directory: Path) -> psutil.Process:
    (child,) = living_children(os.getpid(), str(directory / "foreign"))
    return child


async def test_waiting_for_the_tokenizer_process_delays_no_other_request(
    tokenizing: Tokenizing, known: ServedModel, foreign: ServedModel, tmp_path: Path
) -> None:
    """Neither the event loop nor the threads that tokenise for known models."""
    child = process_of(foreign, tmp_path)
    child.suspend()
    waiting = asyncio.create_task(tokens(tokenizing, foreign, SHORT))
    others = [asyncio.create_task(tokens(tokenizing, foreign, SHORT * 10)) for _ in range(5)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            short = await tokens(tokenizing, known, SHORT)
            await tokens(tokenizing, known, LONG[: 2 * INLINE_CHARACTERS])
        assert not waiting.done()
    finally:
        child.resume()
    assert await waiting == short
    assert all(await asyncio.gather(*others))


async def test_a_disconnected_client_is_not_waited_for(
    tokenizing: Tokenizing, foreign: ServedModel, tmp_path: Path
) -> None:
    child = process_of(foreign, tmp_path)
    child.suspend()
    try:
        leaving = [asyncio.create_task(tokens(tokenizing, foreign, SHORT)) for _ in range(3)]
        await asyncio.sleep(0)
        for each in leaving:
            each.cancel()
        async with asyncio.timeout(PATIENCE_S):
            gone = await asyncio.gather(*leaving, return_exceptions=True)
    finally:
        child.resume()
    assert all(isinstance(each, asyncio.CancelledError) for each in gone)
    assert await tokens(tokenizing, foreign, SHORT, SHORT)


async def test_the_end_of_a_process_is_an_error_of_the_request_that_it_had(
    tokenizing: Tokenizing, foreign: ServedModel, tmp_path: Path
) -> None:
    process_of(foreign, tmp_path).kill()
    with pytest.raises(TokenizerError, match="ends its process on a text"):
        await tokens(tokenizing, foreign, SHORT)
    assert await tokens(tokenizing, foreign, SHORT, LONG)
