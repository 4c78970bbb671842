"""Keeping replicas alive, with a provider whose replicas end when told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.providers.provider import End
from embedfleet.fleet.supervisor import Backoff, Supervisor
from embedfleet.vocabulary import SetupError


class FakeReplica:
    """Lives until it is told to end."""

    def __init__(self, number: int) -> None:
        self.url = f"http://replica-{number}"
        self.stopped_with: float | None = None
        self._end = asyncio.Event()

    def end(self, *, hopeless: bool = False) -> None:
        self._hopeless = hopeless
        self._end.set()

    async def ended(self) -> End:
        await self._end.wait()
        return End("exit code 2" if self._hopeless else "killed by SIGKILL", self._hopeless)

    async def stop(self, grace_s: float) -> None:
        self.stopped_with = grace_s
        self.end()


class FakeProvider:
    """Starts fake replicas; the first `broken` starts fail."""

    def __init__(self, broken: int = 0) -> None:
        self.started: list[FakeReplica] = []
        self.broken = broken

    async def start(self, name: str) -> FakeReplica:
        if self.broken:
            self.broken -= 1
            raise SetupError("no memory")
        self.started.append(FakeReplica(len(self.started)))
        return self.started[-1]


@contextlib.asynccontextmanager
async def keeping(count: int, provider: FakeProvider) -> AsyncIterator[tuple[Fleet, list[int]]]:
    fleet, restarts = Fleet(), []
    supervisor = Supervisor(
        fleet, provider, Backoff(0.001, 0.01), restarted=lambda: restarts.append(1)
    )
    supervisor.start(count)
    await asyncio.sleep(0.02)
    try:
        yield fleet, restarts
    finally:
        await supervisor.stop(7.0)


async def test_as_many_replicas_are_started_as_asked_for() -> None:
    """Each enters the fleet with its address."""
    async with keeping(3, FakeProvider()) as (fleet, _):
        assert sorted(member.name for member in fleet) == ["local-0", "local-1", "local-2"]


async def test_a_replica_that_ends_is_started_again() -> None:
    """Under its name, at its new address; the end is counted."""
    provider = FakeProvider()
    async with keeping(1, provider) as (fleet, restarts):
        provider.started[0].end()
        await asyncio.sleep(0.05)

        assert [(member.name, member.url) for member in fleet] == [("local-0", "http://replica-1")]
        assert len(restarts) == 1


async def test_a_replica_that_can_never_start_is_given_up() -> None:
    """A wrong setting does not become right by trying again."""
    provider = FakeProvider()
    async with keeping(1, provider) as (fleet, _):
        provider.started[0].end(hopeless=True)
        await asyncio.sleep(0.05)

        assert len(fleet) == 0
        assert len(provider.started) == 1


async def test_a_start_that_fails_is_tried_again() -> None:
    """A full memory may have room later."""
    async with keeping(1, FakeProvider(broken=2)) as (fleet, _):
        await asyncio.sleep(0.05)

        assert len(fleet) == 1


async def test_stopping_lets_replicas_finish_and_starts_none() -> None:
    """With the grace that the settings give."""
    provider = FakeProvider()
    async with keeping(2, provider):
        pass

    assert [replica.stopped_with for replica in provider.started] == [7.0, 7.0]
    assert len(provider.started) == 2


def test_restarts_wait_longer_each_time_up_to_a_ceiling() -> None:
    """A model that can't load must not keep a processor busy failing."""
    backoff = Backoff(0.5, 30.0)

    assert [backoff.after(ends) for ends in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
