"""Who waits for whose computation, and what becomes of it when they leave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from embedfleet.cache.memory import Memory
from embedfleet.cache.single_flight import Arrived, Claim, Order, SingleFlight
from embedfleet.cache.tiers import VectorCache
from embedfleet.vocabulary import Lane, ReplicaError, Vector

KEYS = [bytes([number]) * 32 for number in range(3)]
ORDERS = [Order(key, 5, truncated=False) for key in KEYS]
VECTORS = np.eye(3, 8, dtype=np.float32)


@dataclass
class Backend:
    """A computation that tells of vectors when it is told to."""

    arrived: Arrived | None = None
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    cancelled: bool = False

    async def compute(self, arrived: Arrived) -> None:
        self.arrived = arrived
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error

    def bring(self, index: int, vector: Vector | None = None) -> None:
        assert self.arrived is not None
        self.arrived(index, VECTORS[index] if vector is None else vector, 0.5, 0.25)


@pytest.fixture
def cached() -> VectorCache:
    return VectorCache(Memory(2**20))


async def led(
    flights: SingleFlight, backend: Backend, *, texts: int = 1, lane: Lane = Lane.INTERACTIVE
) -> Claim:
    claim = Claim(texts, stores=True)
    flights.lead(claim, range(texts), ORDERS[:texts], lane, backend.compute)
    await asyncio.sleep(0)
    return claim


def followed(flights: SingleFlight, key: bytes) -> Claim:
    claim = Claim(1, stores=True)
    flights.follow(claim, 0, key)
    return claim


async def test_a_follower_waits_for_its_text_alone(cached: VectorCache) -> None:
    """Not for the other sixty-three of the request that has it computed."""
    backend = Backend()
    leader = await led(cached.flights, backend, texts=3)
    follower = followed(cached.flights, KEYS[1])
    backend.bring(1)
    await follower.finished
    assert follower.entries[0] is not None
    assert follower.entries[0].vector.tobytes() == VECTORS[1].tobytes()
    assert (follower.queue_s, follower.compute_s) == (0.5, 0.25)
    assert not leader.finished.done()
    backend.bring(0)
    backend.bring(2)
    await leader.finished
    assert [each is not None for each in leader.entries] == [True] * 3


async def test_a_text_that_has_landed_is_in_memory_and_flies_no_more(cached: VectorCache) -> None:
    backend = Backend()
    await led(cached.flights, backend)
    assert cached.flights.flying(KEYS[0], Lane.INTERACTIVE)
    backend.bring(0)
    assert not cached.flights.flying(KEYS[0], Lane.INTERACTIVE)
    assert cached.recall(KEYS[0]) is not None


async def test_vectors_whose_batch_had_begun_are_kept_when_nobody_waits_any_more(
    cached: VectorCache,
) -> None:
    backend = Backend()
    claim = await led(cached.flights, backend, texts=2)
    cached.flights.leave(claim)
    await asyncio.sleep(0)
    assert backend.cancelled
    backend.bring(1)
    await asyncio.sleep(0)
    assert cached.recall(KEYS[0]) is None
    assert cached.recall(KEYS[1]) is not None


async def test_an_error_is_for_who_had_the_work_done(cached: VectorCache) -> None:
    backend = Backend(error=ReplicaError("broken"))
    leader = await led(cached.flights, backend)
    follower = followed(cached.flights, KEYS[0])
    backend.finish.set()
    with pytest.raises(ReplicaError):
        await leader.finished
    await follower.finished
    assert follower.entries == [None]
    assert len(cached.flights) == 0


async def test_a_failing_work_of_somebody_else_leaves_a_claim_its_own_texts(
    cached: VectorCache,
) -> None:
    theirs, own = Backend(error=ReplicaError("broken")), Backend()
    leader = await led(cached.flights, theirs)
    claim = Claim(2, stores=True)
    cached.flights.follow(claim, 0, KEYS[0])
    cached.flights.lead(claim, [1], ORDERS[1:2], Lane.INTERACTIVE, own.compute)
    theirs.finish.set()
    with pytest.raises(ReplicaError):
        await leader.finished
    assert not claim.finished.done()
    own.bring(0, VECTORS[1])
    await claim.finished
    assert [each is not None for each in claim.entries] == [False, True]
    own.finish.set()
    await asyncio.sleep(0)
    assert not own.cancelled


async def test_a_work_goes_on_only_for_texts_that_somebody_waits_for(cached: VectorCache) -> None:
    """Texts whose batch has begun are kept all the same."""
    backend = Backend()
    leader = await led(cached.flights, backend, texts=3)
    follower = followed(cached.flights, KEYS[1])
    cached.flights.leave(leader)
    await asyncio.sleep(0)
    assert not backend.cancelled
    backend.bring(1)
    backend.bring(0)
    await follower.finished
    await asyncio.sleep(0)
    assert backend.cancelled
    assert [cached.recall(key) is not None for key in KEYS] == [True, True, False]
    assert len(cached.flights) == 0


async def test_a_work_whose_texts_have_all_landed_ends_by_itself(cached: VectorCache) -> None:
    backend = Backend()
    leader = await led(cached.flights, backend, texts=2)
    backend.bring(0)
    backend.bring(1)
    await leader.finished
    cached.flights.leave(leader)
    backend.finish.set()
    await asyncio.sleep(0)
    assert not backend.cancelled


async def test_a_work_that_forgets_a_text_loses_it(cached: VectorCache) -> None:
    """Instead of leaving its callers to their deadlines."""
    backend = Backend()
    leader = await led(cached.flights, backend, texts=2)
    backend.bring(0)
    backend.finish.set()
    await leader.finished
    assert [each is not None for each in leader.entries] == [True, False]


async def test_a_second_vector_for_a_text_changes_nothing(cached: VectorCache) -> None:
    """As a hedged call brings it."""
    backend = Backend()
    leader = await led(cached.flights, backend)
    backend.bring(0)
    backend.bring(0, VECTORS[2])
    await leader.finished
    assert leader.entries[0] is not None
    assert leader.entries[0].vector.tobytes() == VECTORS[0].tobytes()
    entry = cached.recall(KEYS[0])
    assert entry is not None
    assert entry.vector.tobytes() == VECTORS[0].tobytes()


async def test_bulk_follows_interactive_and_not_the_other_way_round(cached: VectorCache) -> None:
    await led(cached.flights, Backend(), lane=Lane.BULK)
    assert cached.flights.flying(KEYS[0], Lane.BULK)
    assert not cached.flights.flying(KEYS[0], Lane.INTERACTIVE)
    await led(cached.flights, Backend())
    assert cached.flights.flying(KEYS[0], Lane.BULK)
    cached.flights.close()
    await asyncio.sleep(0)


async def test_the_end_of_an_older_flight_leaves_the_newer_one(cached: VectorCache) -> None:
    old, new = Backend(), Backend()
    await led(cached.flights, old, lane=Lane.BULK)
    claim = await led(cached.flights, new)
    old.bring(0)
    old.finish.set()
    await asyncio.sleep(0)
    assert cached.flights.flying(KEYS[0], Lane.INTERACTIVE)
    new.bring(0)
    await claim.finished


async def test_closing_breaks_everything_off(cached: VectorCache) -> None:
    backend = Backend()
    claim = await led(cached.flights, backend)
    await cached.close()
    await claim.finished
    assert claim.entries == [None]
    assert backend.cancelled


async def test_a_claim_that_was_left_may_fail_unheard(cached: VectorCache) -> None:
    """Its caller left in the same moment; asyncio would complain of an error nobody looked at."""
    backend = Backend(error=ReplicaError("broken"))
    claim = await led(cached.flights, backend)
    backend.finish.set()
    await asyncio.sleep(0.01)
    assert claim.finished.done()
    cached.flights.leave(claim)
    del claim
