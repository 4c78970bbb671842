"""Whatever replicas and callers do, each text is settled once: with its own vector, or an error.

Replicas hang, drip, reset, fail, have no vector for some texts, give NaN, answer late, twice, for
others and beyond what was asked; callers leave, share texts and have deadlines. In virtual time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from random import Random

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.single_flight import SharedText, SingleFlight
from embedfleet.cache.tiers import VectorCache
from embedfleet.fleet.balancing import POLICIES
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.states import Event
from embedfleet.runtime.settings import FleetSettings, GatewaySettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.scheduling.delivery.decisions import HEDGE_SHARE, RESERVE
from embedfleet.scheduling.delivery.pool import Pool
from embedfleet.scheduling.texts import Caller, Waiting
from embedfleet.transport.frames import CallText, Failure, Frame, Take, vector_bytes
from embedfleet.vocabulary import (
    DrainingError,
    EmbedfleetError,
    Encoding,
    Lane,
    Outcome,
    ReplicaError,
    ReplicaLostError,
    ReplicaState,
    ReplicaUnreachableError,
)
from tests.fakes.revealing_engine import WIDTH, vector_of
from tests.fakes.virtual_time import run
from tests.fleet.test_health import DESCRIPTION

ATTEMPTS = 4
KINDS: tuple[str, ...] = (
    "well",
    "slow",
    "hangs",
    "drips",
    "resets",
    "fails",
    "unable",
    "nan",
    "stranger",
    "empty",
)
KINDS += ("twice", "refuses", "unreached", "short", "expired", "shuffles")


class Unreliable:
    """Replicas each of whose calls goes well or in one of many ways wrong."""

    def __init__(self, rng: Random, badness: float) -> None:
        self.rng, self.badness = rng, badness
        self.computed: Counter[bytes] = Counter()

    async def work(self, _url: str, _key: str, texts: Sequence[CallText], take: Take) -> None:
        await self._answer(list(texts), take)

    async def cancel(self, _url: str, _key: str, _ids: Sequence[int]) -> None:
        if self.rng.random() < self.badness:
            raise ReplicaLostError("no answer to a cancellation")

    async def _answer(self, texts: list[CallText], take: Take) -> None:  # noqa: C901, PLR0912
        rng = self.rng
        kind = rng.choice(KINDS) if rng.random() < self.badness else "well"
        await asyncio.sleep(rng.random() * 0.05)
        match kind:
            case "refuses":
                raise DrainingError("draining")
            case "unreached":
                raise ReplicaUnreachableError("refused")
            case "slow":
                await asyncio.sleep(rng.random() * 5)
            case "fails":
                raise ReplicaError("500")
            case "shuffles":
                rng.shuffle(texts)
            case "empty":
                take(Frame([], b"", [], 0, 0, 200))
        while texts:
            size = rng.randint(1, 8)
            some, texts = texts[:size], texts[size:]
            await asyncio.sleep(0.9 if kind == "drips" else rng.random() * 0.01)
            frame = self._frame(some)
            if kind == "hangs":
                await asyncio.sleep(10_000)
            if kind == "resets":
                raise ReplicaLostError("torn")
            if kind == "short":
                return
            if kind == "stranger":
                frame = msgspec.structs.replace(frame, ids=[each + 1000 for each in frame.ids])
            if kind in {"unable", "expired"}:
                code = "invalid_vector" if kind == "unable" else "deadline_exceeded"
                failures = [Failure(text.id, code, "no") for text in some]
                frame = Frame([], b"", failures, 0, 0, 200)
            if kind == "nan":
                vectors = frame.matrix(WIDTH).copy()
                vectors[0] = np.nan
                frame = msgspec.structs.replace(frame, vectors=vectors.tobytes())
            take(frame)
            if kind == "twice":
                take(frame)

    def _frame(self, texts: Sequence[CallText]) -> Frame:
        self.computed.update(text.ids for text in texts)
        vectors = np.stack([vector_of(text.encoding) for text in texts])
        return Frame([text.id for text in texts], vector_bytes(vectors), [], 0, 0, 200)


class Traffic:
    """Requests of a few texts out of not many, against a pool whose replicas come and go."""

    def __init__(self, seed: int, replicas: int, badness: float) -> None:
        self.rng = rng = Random(seed)
        self.upstream = Unreliable(rng, badness)
        self.metrics = GatewayMetrics()
        self.fleet = Fleet()
        self.clock = asyncio.get_running_loop().time
        self.pool = Pool(
            "m",
            self.fleet,
            self.upstream,  # type: ignore[arg-type]
            POLICIES[rng.choice(sorted(POLICIES))](rng),
            gateway=GatewaySettings(),
            settings=FleetSettings(attempts=ATTEMPTS),
            metrics=self.metrics,
            clock=self.clock,
        )
        self.pool.width = WIDTH
        self.cache = VectorCache(MemoryTier(0))
        self.flights = SingleFlight(self.cache)
        self.names = [f"r{number}" for number in range(replicas)]
        for name in self.names:
            self.join(name)
        self.ends: Counter[str] = Counter()
        self.submitted = 0
        """Texts that were given to the pool."""

    def join(self, name: str) -> None:
        member = self.fleet.add(name, name, self.clock())
        member.description = msgspec.structs.replace(DESCRIPTION, batch_tokens=60, window=200)
        for event in (Event.ANSWERED, Event.VERIFIED):
            self.fleet.apply(member, event, self.clock())

    async def heal(self) -> None:
        """Replicas that went come back, as the prober and a supervisor would have it."""
        while True:
            await asyncio.sleep(self.rng.random())
            for name in self.names:
                member = next((each for each in self.fleet if each.name == name), None)
                if member is None or member.state is not ReplicaState.READY:
                    self.join(name)
            if self.rng.random() < 0.1:
                event = self.rng.choice([Event.LOST, Event.REFUSED, Event.DRAIN])
                self.fleet.apply(self.fleet[self.rng.choice(self.names)], event, self.clock())

    async def ask(self) -> None:
        rng = self.rng
        await asyncio.sleep(rng.random() * 5)
        texts: list[Encoding] = [
            np.array([rng.randrange(1, 40)] * rng.choice([1, 3, 20, 70]), np.int32)
            for _ in range(rng.choice([1, 1, 2, 20]))
        ]
        keys = [hashlib.blake2b(ids.tobytes(), digest_size=32).digest() for ids in texts]
        patience_s = rng.choice([0.02, 0.5, 30.0, 30.0])
        caller = Caller(rng.choice(list(Lane)), self.clock() + patience_s + 0.1)
        shares, waiting = rng.random() < 0.7, Waiting([None] * len(texts))
        try:
            async with asyncio.timeout(patience_s):
                alone = [
                    SharedText(ids, waiting, place, key, truncated=False)
                    for place, (key, ids) in enumerate(zip(keys, texts, strict=True))
                    if not (shares and self.flights.join(waiting, place, key, caller))
                ]
                tokens = sum(len(text.encoding) for text in alone)
                self.pool.admit(len(alone), tokens, caller)
                self.submitted += len(alone)
                self.flights.lead(waiting, alone, self.pool, caller, stores=shares)
                await waiting.finished
        except TimeoutError:
            self.ends["left"] += 1
        except EmbedfleetError as error:
            self.ends[type(error).__name__] += 1
        else:
            self.ends["answered"] += 1
            for ids, row in zip(texts, waiting.rows, strict=True):
                np.testing.assert_array_equal(row.vector, vector_of(ids))
        finally:
            self.flights.leave(waiting)


async def served(seed: int, replicas: int, badness: float, requests: int) -> Traffic:
    traffic = Traffic(seed, replicas, badness)
    pool = traffic.pool
    loops = [asyncio.create_task(pool.run()), asyncio.create_task(traffic.heal())]
    asked = [asyncio.create_task(traffic.ask()) for _ in range(requests)]
    async with asyncio.timeout(300):
        await asyncio.gather(*asked)
    assert traffic.ends.total() == requests, "each request ends in one way"
    await asyncio.sleep(120)  # what hangs is found out, what is forsaken broken off
    assert not any(loop.done() for loop in loops), "a loop has ended"
    assert pool.waiting_tokens == pool.queued_texts == 0, "a lease is left"
    assert not pool._flights
    assert not pool._errands
    for load in pool._dispatcher.loads:
        assert load.calls == load.outstanding_tokens == 0
    assert traffic.cache.counts.in_flight == len(traffic.flights) == 0
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await pool.close()
    return traffic


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    replicas=st.integers(1, 12),
    badness=st.sampled_from([0.05, 0.2, 0.5, 1.0]),
)
def test_every_text_is_settled_once_with_its_own_vector_or_an_error(
    seed: int, replicas: int, badness: float
) -> None:
    run(served(seed, replicas, badness, requests=60))


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), replicas=st.integers(1, 12))
def test_where_nothing_fails_everything_is_answered_and_computed_once(
    seed: int, replicas: int
) -> None:
    traffic = run(served(seed, replicas, 0.0, requests=60))
    assert set(traffic.ends) <= {"answered", "left"}
    assert traffic.upstream.computed.total() <= traffic.submitted


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**32), replicas=st.integers(3, 8), badness=st.sampled_from([0.01, 0.03])
)
def test_few_texts_are_computed_twice_however_replicas_fail(
    seed: int, replicas: int, badness: float
) -> None:
    """A tenth more at most, over a run; hedges within what answered texts have earned."""
    traffic = run(served(seed, replicas, badness, requests=800))
    answered = traffic.metrics.texts.labels("m", Outcome.SUCCEEDED.value).value
    hedged = traffic.metrics.hedged_texts.labels("m")._value.get()
    assert traffic.upstream.computed.total() <= 1.1 * traffic.submitted
    assert hedged <= RESERVE + HEDGE_SHARE * answered
