"""Who waits for whose computation, and what becomes of it when they leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.single_flight import SharedText, SingleFlight
from embedfleet.cache.tiers import VectorCache
from embedfleet.scheduling.texts import Caller, Text, Waiting
from embedfleet.vocabulary import (
    DeadlineError,
    EmbedfleetError,
    Lane,
    OverloadedError,
    ReplicaError,
    VectorError,
)

KEYS = [bytes([number]) * 32 for number in range(3)]
VECTORS = np.eye(3, 8, dtype=np.float32)
CALLER = Caller(Lane.INTERACTIVE, 10.0)


class Backend:
    """Computes when it is told to."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Text, Caller]] = []
        self.withdrawn: list[Text] = []
        self.joins = True
        self.full = False

    def admit(self, texts: int, tokens: int, caller: Caller) -> None: ...

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        if self.full:
            raise OverloadedError("full")
        self.submitted += [(text, caller) for text in texts]

    def join(self, text: Text, caller: Caller) -> bool:
        return self.joins

    def shortage(self) -> str:
        return ""

    def withdraw(self, texts: Sequence[Text]) -> None:
        self.withdrawn += texts

    def bring(self, number: int) -> None:
        text = self.submitted[number][0]
        text.answer(VECTORS[text.encoding[0]], 0.5, 0.25, "a replica")


class Rig:
    def __init__(self) -> None:
        self.cache, self.backend = VectorCache(MemoryTier(2**20)), Backend()
        self.flights = SingleFlight(self.cache)

    def lead(self, *numbers: int, stores: bool = True, caller: Caller = CALLER) -> Waiting:
        waiting = Waiting([None] * len(numbers))
        texts = [
            SharedText(np.array([number], np.int32), waiting, place, KEYS[number], truncated=False)
            for place, number in enumerate(numbers)
        ]
        self.flights.lead(waiting, texts, self.backend, caller, stores=stores)
        return waiting

    def follow(self, number: int, caller: Caller = CALLER) -> Waiting:
        waiting = Waiting([None])
        assert self.flights.join(waiting, 0, KEYS[number], caller)
        return waiting


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_a_follower_waits_for_its_text_alone(rig: Rig) -> None:
    """Not for the other texts of the request that has it computed."""
    leader, follower = rig.lead(0, 1, 2), rig.follow(1)
    rig.backend.bring(1)
    await follower.finished
    assert follower.rows[0].vector.tobytes() == VECTORS[1].tobytes()
    assert (follower.queue_s, follower.compute_s) == (0.5, 0.25)
    assert not leader.finished.done()
    rig.backend.bring(0)
    rig.backend.bring(2)
    await leader.finished
    assert [row.vector.argmax() for row in leader.rows] == [0, 1, 2]


async def test_only_what_was_not_computed_counts_as_shared(rig: Rig) -> None:
    leader = rig.lead(0)
    followers = [rig.follow(0) for _ in range(3)]
    assert rig.cache.counts.in_flight == 1
    rig.flights.leave(leader)
    rig.backend.bring(0)
    assert all(follower.finished.done() for follower in followers)
    assert rig.cache.counts.shared == 2, "three were answered by one computation"
    assert rig.cache.counts.in_flight == 0


async def test_a_text_that_has_landed_is_in_memory_and_in_flight_no_more(rig: Rig) -> None:
    rig.lead(0)
    rig.backend.bring(0)
    assert not rig.flights.join(Waiting([None]), 0, KEYS[0], CALLER)
    assert rig.cache.recall(KEYS[:1]) != [None]


async def test_a_private_text_is_neither_found_nor_kept(rig: Rig) -> None:
    waiting = rig.lead(0, stores=False)
    assert not rig.flights.join(Waiting([None]), 0, KEYS[0], CALLER)
    rig.backend.bring(0)
    assert waiting.rows[0].vector.tobytes() == VECTORS[0].tobytes()
    assert rig.cache.recall(KEYS[:1]) == [None]


async def test_a_text_goes_on_for_as_long_as_anybody_waits_for_it(rig: Rig) -> None:
    leader, follower = rig.lead(0, 1), rig.follow(1)
    rig.flights.leave(leader)
    assert [text.encoding[0] for text in rig.backend.withdrawn] == [0]
    rig.flights.leave(follower)
    assert [text.encoding[0] for text in rig.backend.withdrawn] == [0, 1]
    assert len(rig.flights) == 0


async def test_a_vector_whose_batch_had_begun_is_cached_after_all_clients_left(rig: Rig) -> None:
    rig.flights.leave(rig.lead(0))
    rig.backend.bring(0)
    assert rig.cache.recall(KEYS[:1]) != [None]


async def test_a_failure_is_reported_to_one_and_the_others_share_a_second_attempt(rig: Rig) -> None:
    """With the latest of their deadlines and the more urgent of their lanes."""
    leader = rig.lead(0, caller=Caller(Lane.BULK, 5.0))
    followers = [rig.follow(0, Caller(Lane.BULK, 9.0)), rig.follow(0, CALLER)]
    rig.backend.submitted[0][0].fail(ReplicaError("broken"))
    with pytest.raises(ReplicaError):
        await leader.finished
    assert not any(follower.finished.done() for follower in followers)
    assert rig.backend.submitted[1][1] == CALLER
    rig.backend.bring(1)
    for follower in followers:
        await follower.finished


async def test_a_second_failure_reaches_every_waiter(rig: Rig) -> None:
    rig.lead(0)
    followers = [rig.follow(0) for _ in range(5)]
    for number in range(2):
        rig.backend.submitted[number][0].fail(ReplicaError("broken"))
    for follower in followers:
        with pytest.raises(ReplicaError):
            await follower.finished
    assert len(rig.backend.submitted) == 2
    assert len(rig.flights) == 0


@pytest.mark.parametrize("error", [VectorError("none"), DeadlineError("too late")])
async def test_a_permanent_failure_reaches_every_waiter(rig: Rig, error: EmbedfleetError) -> None:
    waiting = [rig.lead(0), rig.follow(0), rig.follow(0)]
    rig.backend.submitted[0][0].fail(error)
    for each in waiting:
        with pytest.raises(type(error)):
            await each.finished
    assert len(rig.backend.submitted) == 1


async def test_a_refused_second_attempt_fails_those_who_wait(rig: Rig) -> None:
    leader, follower = rig.lead(0), rig.follow(0)
    rig.backend.full = True
    rig.backend.submitted[0][0].fail(ReplicaError("broken"))
    with pytest.raises(ReplicaError):
        await leader.finished
    with pytest.raises(OverloadedError):
        await follower.finished


async def test_what_is_refused_is_not_in_flight(rig: Rig) -> None:
    rig.backend.full = True
    with pytest.raises(OverloadedError):
        rig.lead(0)
    assert len(rig.flights) == 0


async def test_a_caller_that_comes_too_late_for_a_text_leads_its_own(rig: Rig) -> None:
    """The older one stays the one to be found, and each is answered."""
    rig.backend.joins = False
    first = rig.lead(0)
    assert not rig.flights.join(Waiting([None]), 0, KEYS[0], CALLER)
    second = rig.lead(0)
    rig.backend.bring(1)
    assert second.finished.done()
    assert not first.finished.done()
    assert rig.cache.counts.in_flight == 1
    rig.backend.bring(0)
    assert first.finished.done()
    assert rig.cache.counts.in_flight == 0


async def test_a_request_that_was_abandoned_may_fail_silently(rig: Rig) -> None:
    """Its caller left in the same moment; asyncio would complain of an error nobody looked at."""
    waiting = rig.lead(0)
    rig.backend.submitted[0][0].fail(VectorError("none"))
    rig.flights.leave(waiting)
    del waiting
