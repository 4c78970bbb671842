"""A pool whose replicas are all gone says so, instead of letting texts wait for their deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from embedfleet.cache.single_flight import Arrived
from embedfleet.endpoint import Caller, Computed
from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.states import Event
from embedfleet.gateway.patience import Patience, patient
from embedfleet.vocabulary import Encoding, Lane, NoReplicaError

PATIENCE_S = 0.05
CALLER = Caller(Lane.INTERACTIVE, time.monotonic() + 100)
TEXT = [np.zeros(3, np.int32)]


class Waiting:
    """A pool that computes nothing until somebody is there."""

    def __init__(self) -> None:
        self.somebody = asyncio.Event()
        self.cancelled = 0

    async def compute(
        self, encodings: Sequence[Encoding], caller: Caller, arrived: Arrived | None = None
    ) -> Computed:
        try:
            await self.somebody.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Computed(np.ones((len(encodings), 2), np.float32), 0.0, 0.0)


def come(fleet: Fleet) -> None:
    fleet.add("a", "a", time.monotonic())
    for event in (Event.ANSWERED, Event.VERIFIED):
        fleet.apply(fleet["a"], event, time.monotonic())


async def test_texts_that_wait_for_nobody_are_told() -> None:
    pool = Waiting()
    patience = Patience(pool, "m", Fleet(), PATIENCE_S)
    with pytest.raises(NoReplicaError, match="no replica of m can be reached"):
        await patience.compute(TEXT, CALLER)
    assert pool.cancelled == 1


async def test_those_that_come_later_are_told_at_once() -> None:
    pool = Waiting()
    patience = Patience(pool, "m", Fleet(), PATIENCE_S)
    await asyncio.sleep(2 * PATIENCE_S)
    with pytest.raises(NoReplicaError):
        await patience.compute(TEXT, CALLER)
    assert pool.cancelled == 0


async def test_a_replica_that_comes_in_time_computes_them() -> None:
    pool, fleet = Waiting(), Fleet()
    patience = Patience(pool, "m", fleet, 5.0)
    asking = asyncio.create_task(patience.compute(TEXT, CALLER))
    await asyncio.sleep(0)
    come(fleet)
    pool.somebody.set()
    assert (await asking).vectors.shape == (1, 2)


async def test_a_replica_that_comes_back_ends_it() -> None:
    pool, fleet = Waiting(), Fleet()
    patience = Patience(pool, "m", fleet, PATIENCE_S)
    await asyncio.sleep(2 * PATIENCE_S)
    come(fleet)
    pool.somebody.set()
    assert (await patience.compute(TEXT, CALLER)).vectors.shape == (1, 2)


async def test_the_only_replica_counts_as_gone_while_it_does_not_answer() -> None:
    """It is not ejected, since no other one could take its work, but it is not there either."""
    fleet = Fleet()
    come(fleet)
    patience = Patience(Waiting(), "m", fleet, PATIENCE_S)
    fleet.failed(fleet["a"], time.monotonic(), "connection refused", lost=True)
    with pytest.raises(NoReplicaError):
        await patience.compute(TEXT, CALLER)


async def test_a_caller_who_leaves_is_no_missing_replica() -> None:
    patience = Patience(Waiting(), "m", Fleet(), 5.0)
    asking = asyncio.create_task(patience.compute(TEXT, CALLER))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_without_the_setting_texts_wait_until_their_deadline() -> None:
    pool = Waiting()
    assert patient(pool, "m", Fleet(), None) is pool
