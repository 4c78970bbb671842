"""Vector i belongs to text i, whatever comes together: hits, misses, duplicates, callers that
leave, tiers that fail, memory that is too small.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.cache.entry import pack, sealed
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.tiers import VectorCache
from embedfleet.transport.asgi import ClientGoneError
from embedfleet.vocabulary import Encoding, ReplicaError, Truncation
from tests.fakes.asking import WIDTH, Asker, Heard, RevealingBackend, vector_of

WORDS = ["sea", "river", "mountain", "sky", "air", "light"]
ENTRY = 4 * WIDTH + 300


@dataclass(frozen=True)
class Asking:
    """One request and its fate."""

    texts: tuple[str, ...]
    after: int
    """Turns of the event loop before it comes."""
    stays: int
    """Turns that its caller stays."""
    wish: str
    lane: str


@dataclass
class UnreliableTier:
    """A remote tier that loses, mixes up and damages what it was given."""

    rng: Random
    faults: float

    def __post_init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        found = [self.values.get(key) for key in keys]
        if self.rng.random() < self.faults and self.values:
            # Another connection's answer: right in itself, of other texts.
            found = [self.rng.choice(list(self.values.values())) for _ in keys]
        if self.rng.random() < self.faults:
            found = [value[:-1] + b"x" if value else value for value in found]
        if self.rng.random() >= self.faults:
            return found
        nothing: list[bytes | None] = [None] * len(keys)
        return self.rng.choice([None, nothing])

    def store(self, key: bytes, value: bytes) -> None:
        if self.rng.random() >= self.faults:
            self.values[key] = value

    def forget(self, keys: Collection[bytes]) -> None:
        if self.rng.random() >= self.faults:
            for key in keys:
                self.values.pop(key, None)

    async def clear(self) -> int | None:
        return None

    async def close(self) -> None: ...


askings = st.builds(
    Asking,
    texts=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(tuple),
    after=st.integers(0, 12),
    stays=st.one_of(st.just(10_000), st.integers(0, 15)),
    wish=st.sampled_from(["", "", "", "no-cache", "no-store", "no-cache, no-store"]),
    lane=st.sampled_from(["interactive", "bulk"]),
)


@cache
def directory() -> Path:
    return Path(tempfile.mkdtemp()) / "model"


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def send(asker: Asker, asking: Asking) -> Heard | None:
    """The answer; None for a caller who left."""
    await turns(asking.after)
    gone = asyncio.Event()
    headers = {"x-embedfleet-lane": asking.lane}
    if asking.wish:
        headers["cache-control"] = asking.wish

    async def leave() -> None:
        await turns(asking.stays)
        gone.set()

    leaving = asyncio.create_task(leave())
    request = asyncio.create_task(asker.ask(list(asking.texts), headers=headers, gone=gone))
    try:
        if asking.stays < 10_000:
            # Callers who leave within a blink are cancelled as their connection's end does it.
            await asyncio.wait({request, leaving}, return_when=asyncio.FIRST_COMPLETED)
            request.cancel()
        return await request
    except (ClientGoneError, asyncio.CancelledError):
        return None
    finally:
        leaving.cancel()


@settings(deadline=None, max_examples=150)
@given(
    askings=st.lists(askings, min_size=1, max_size=12),
    room=st.integers(0, 8),
    faults=st.sampled_from([0.0, 0.3]),
    failing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**16),
)
async def test_every_answer_has_the_right_vectors_in_order(
    askings: list[Asking], room: int, faults: float, failing: float, seed: int
) -> None:
    rng = Random(seed)

    async def before(_encodings: Sequence[Encoding]) -> None:
        await turns(rng.randrange(6))
        if rng.random() < failing:
            raise ReplicaError("broken")

    cached = VectorCache(MemoryTier(room * ENTRY), UnreliableTier(rng, faults))
    asker = Asker(directory(), cached, backend=RevealingBackend(before))
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(send(asker, asking) for asking in askings))
    for asking, answer in zip(askings, answers, strict=True):
        if answer is not None and answer.status == 200:
            assert answer.vectors == [asker.right(text) for text in asking.texts]
            assert answer.tokens == sum(
                len(asker.encoder.encode([text], prompt="", truncate=Truncation.NONE)[0].ids)
                for text in asking.texts
            )
        elif answer is not None:
            assert failing, answer.body
            assert answer.status == ReplicaError("").status
    await turns(60)
    assert cached.counts.in_flight == 0, "a text is waited for and nobody computes it"


def test_the_unreliable_tier_does_give_wrong_values() -> None:
    """Or the property above would prove nothing of tiers."""
    tier = UnreliableTier(Random(0), 1.0)
    value = sealed(b"a", pack(vector_of(np.array([1], np.int32)), 1, truncated=False))
    tier.values = {b"a": value}
    rng = Random(1)
    tier.rng, tier.faults = rng, 0.6
    seen = {(asyncio.run(tier.fetch([b"b"])) or [None])[0] for _ in range(50)}
    assert value in seen
    assert any(each is not None and each != value for each in seen)
