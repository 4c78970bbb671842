"""Keeps a number of replicas alive: starts them, notices their end, starts them again.

Decides when a dead replica is started again. Refuses to know what a replica is: a provider does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from embedfleet.fleet.fleet import Fleet
from embedfleet.fleet.providers.provider import End, Provided, Provider
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import SettingError, SetupError

log = logging.getLogger(__name__)

HEALTHY_S = 60.0
"""A replica that lived this long was well; its next end is a new matter, not a repeated one."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before each restart in a row: doubling, up to a ceiling."""

    first_s: float
    most_s: float

    def after(self, ends: int) -> float:
        """Seconds after the n-th end in a row, n from 1."""
        return min(self.most_s, self.first_s * 2.0 ** min(ends - 1, 30))


class Supervisor:
    """Replicas of one pool that must exist."""

    def __init__(
        self,
        fleet: Fleet,
        provider: Provider,
        backoff: Backoff,
        *,
        restarted: Callable[[], None] = lambda: None,
        gave_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`gave_up` is told of a replica that is not started again, and why."""
        self._fleet = fleet
        self._provider = provider
        self._backoff = backoff
        self._restarted = restarted
        self._gave_up = gave_up
        self._slots: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, Provided] = {}

    def start(self, count: int) -> None:
        """Keep `count` replicas alive from now on."""
        for number in range(count):
            name = f"local-{number}"
            self._slots[name] = asyncio.create_task(self._keep(name))

    async def stop(self, grace_s: float) -> None:
        """Stop restarting, then stop every replica; they finish what they have."""
        for slot in self._slots.values():
            slot.cancel()
        await asyncio.gather(*self._slots.values(), return_exceptions=True)
        await asyncio.gather(*(replica.stop(grace_s) for replica in self._running.values()))
        self._running.clear()

    async def _keep(self, name: str) -> None:
        ends = 0
        while True:
            started = time.monotonic()
            end = await self._live(name)
            if end.hopeless:
                log.error("replica %s ended (%s); starting it again can't help", name, end.reason)
                self._gave_up(end.reason)
                return
            ends = 1 if time.monotonic() - started > HEALTHY_S else ends + 1
            wait = self._backoff.after(ends)
            log.warning(
                "replica %s ended (%s); it is started again in %.1f s", name, end.reason, wait
            )
            await asyncio.sleep(wait)
            self._restarted()

    async def _live(self, name: str) -> End:
        """One life of a replica."""
        try:
            replica = await self._provider.start(name)
        except SetupError as error:
            return End(error.message, hopeless=isinstance(error, SettingError))
        self._running[name] = replica
        member = self._fleet.add(name, replica.url, time.monotonic())
        end = await replica.ended()
        del self._running[name]
        self._fleet.apply(member, Event.LOST, time.monotonic(), end.reason)
        return end
