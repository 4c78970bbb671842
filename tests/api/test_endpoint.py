"""What is told of requests, however they end, and what is done beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from embedfleet.api.cached_compute import INLINE_KEYED
from embedfleet.api.endpoint import INLINE_NUMBERS
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.transport.asgi import ClientGoneError
from embedfleet.vocabulary import Encoding
from tests.fakes.asking import MODEL, WIDTH, Asker, RevealingBackend, request


def tokenizing_threads() -> set[threading.Thread]:
    """Those of all endpoints; each starts its own only where there is something to do."""
    return {each for each in threading.enumerate() if each.name.startswith(("tokenize", "bodies"))}


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    return Asker(tmp_path / "model", None)


async def test_an_unexpected_error_is_answered_500(tmp_path: Path) -> None:
    """The router answers it; it must be in the metrics as well."""

    async def fail(_: Sequence[Encoding]) -> None:
        raise ZeroDivisionError

    asker = Asker(tmp_path / "model", None, backend=RevealingBackend(fail))
    with pytest.raises(ZeroDivisionError):
        await asker.ask(["one", "two"])
    (told,) = asker.told
    assert (told.model, told.status, told.texts) == (MODEL, 500, 2)
    assert asker.endpoint.active == 0
    assert asker.endpoint._intake._held_bytes == 0


async def test_a_disconnected_caller_is_counted_as_499(tmp_path: Path) -> None:
    """With what it asked for, and in the access log as well."""

    async def wait(_: Sequence[Encoding]) -> None:
        await asyncio.Event().wait()

    asker = Asker(tmp_path / "model", None, backend=RevealingBackend(wait))
    gone = asyncio.Event()
    gone.set()
    asked = request({"model": MODEL, "input": ["one", "two"]}, {}, gone)
    with pytest.raises(ClientGoneError):
        await asker.endpoint.embeddings(asked)
    (told,) = asker.told
    assert (told.model, told.status, told.texts) == (MODEL, 499, 2)
    assert asked.notes["answered"] is told


async def test_the_prompt_counts_with_every_text(asker: Asker) -> None:
    """Two thousand letters with a long instruction are millions of characters."""
    before = tokenizing_threads()
    await asker.ask(["a"] * 20, instruction="b" * 100)
    assert not tokenizing_threads() - before
    await asker.ask(["a"] * 20, instruction="b" * 400)
    assert tokenizing_threads() - before


async def test_many_numbers_are_written_beside_the_event_loop(asker: Asker) -> None:
    """A number takes some 50 ns to write, and there may be millions."""
    before = tokenizing_threads()
    most = INLINE_NUMBERS["float"] // WIDTH
    few = await asker.ask(["a"] * most, encoding_format="float")
    assert not tokenizing_threads() - before
    many = await asker.ask(["a"] * (most + 1), encoding_format="float")
    assert tokenizing_threads() - before
    rows = [row["embedding"] for row in many.body["data"]]
    assert rows[:most] == [row["embedding"] for row in few.body["data"]]
    assert len(rows) == most + 1


async def test_keys_of_much_text_are_made_beside_the_event_loop(tmp_path: Path) -> None:
    """Whatever the size, hits are hits."""
    cache = VectorCache(MemoryTier(2**20))
    text = "the river rises " * (INLINE_KEYED // 16 + 1)
    first = await Asker(tmp_path / "one", cache).ask([text, "short"], truncate=True)
    before = tokenizing_threads()
    other = Asker(tmp_path / "two", cache)
    assert (await other.ask(["short"], truncate=True)).cache == "hit=1; miss=0"
    assert not tokenizing_threads() - before
    again = await other.ask([text, "short"], truncate=True)
    assert (again.cache, again.vectors) == ("hit=2; miss=0", first.vectors)
    assert tokenizing_threads() - before


async def never(_encodings: Sequence[Encoding]) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("short", ["", "no replica is ready (one replica: it is starting)"])
async def test_a_deadline_that_passed_for_want_of_replicas_says_so(
    short: str, tmp_path: Path
) -> None:
    """And nothing of replicas where one is ready."""
    asker = Asker(tmp_path, None, backend=RevealingBackend(before=never, short=short))
    heard = await asker.ask("the sea", headers={"x-request-deadline-ms": "50"})
    assert heard.status == 504
    told = heard.body["error"]
    assert told["code"] == "deadline_exceeded"
    before = "the deadline passed before the answer was ready"
    assert told["message"] == (f"{before}: {short}" if short else before)
