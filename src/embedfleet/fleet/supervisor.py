"""Keeps a number of replicas alive: starts them, starts them again when they end, lets some go.

Decides when a dead replica is started again, and in which order one leaves: out of traffic first,
then its texts are finished, then it ends or waits on standby. Which ones come and go is decided in
`sizing.py`. Refuses to know what a replica is (a provider does) and why a number is right.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.providers.provider import End, Provided, Provider
from embedfleet.fleet.sizing import Part, Standing, changes
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import ReplicaState, SettingError, SetupError

log = logging.getLogger(__name__)

US = "supervisor"
"""Who lets a replica go."""

HEALTHY_S = 60.0
"""A replica that lived this long was well; its next end is a new matter, not a repeated one."""
STARTS = 20
"""So many of the last starts say how long one takes."""
LOOK_S = 0.05
"""How often it is looked whether a replica that leaves has finished."""
LOOKS = 10
"""How often it is looked within `start_timeout_s` whether a replica hangs."""


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one replica, whatever process fills it."""

    number: int
    part: Part
    keeping: asyncio.Task[None] | None = None
    """Keeps a process in it."""
    emptying: asyncio.Task[None] | None = None
    """Takes it out of traffic."""
    ending: bool = False
    """Whether its process was told to end: too late to be called back."""
    replica: Provided | None = None
    member: Member | None = None
    awaited: tuple[str, float] | None = None
    """Since when it is awaited in traffic, and from where: `start` or `standby`."""

    @property
    def name(self) -> str:
        return f"local-{self.number}"


@dataclass(slots=True)
class Told:
    """Who hears of what happens to replicas."""

    restarted: Callable[[], None] = lambda: None
    gave_up: Callable[[str], None] = lambda _: None
    """Of a replica that is not started again, and why."""
    arrived: Callable[[str, float], None] = lambda _came, _seconds: None
    """Of a replica that gets traffic: whether it came from a `start` or `standby`, and how long
    that took."""


@dataclass(slots=True)
class Supervisor:
    """Replicas of one pool that must exist."""

    fleet: Fleet
    provider: Provider
    backoff: Backoff
    outstanding: Callable[[str], int] = lambda _: 0
    """Tokens that a replica, by name, still has to answer."""
    grace_s: float = 30.0
    """How long a replica that goes may take to finish what it has."""
    start_timeout_s: float = 600.0
    """How long one may not answer, loading or later, before it counts as dead."""
    told: Told = field(default_factory=Told)
    _slots: dict[int, Slot] = field(init=False, default_factory=dict)
    _starts_s: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.fleet.listen(self._follow)

    @property
    def planned(self) -> int:
        """Replicas that are, or will be, in traffic."""
        return sum(slot.part is Part.TRAFFIC for slot in self._slots.values())

    @property
    def standby(self) -> int:
        """Replicas that are, or will be, kept loaded out of traffic."""
        return sum(slot.part is Part.STANDBY for slot in self._slots.values())

    @property
    def start_up_s(self) -> float:
        """Three of four of the last starts were quicker; NaN before the first."""
        return float(np.quantile(self._starts_s, 0.75)) if self._starts_s else math.nan

    def start(self, count: int) -> None:
        """Keep `count` replicas alive from now on."""
        self._become(count, self.standby)

    async def scale_to(self, planned: int, standby: int, reason: str) -> None:
        """Have `planned` replicas in traffic and `standby` beside them; returns at once."""
        log.debug("%d replicas and %d on standby: %s", planned, standby, reason)
        self._become(planned, standby)

    async def stop(self, grace_s: float) -> None:
        """Stop restarting, then stop every replica; they finish what they have."""
        slots = list(self._slots.values())
        tasks = [task for slot in slots for task in (slot.keeping, slot.emptying) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        running = [slot.replica for slot in slots if slot.replica is not None]
        await asyncio.gather(*(replica.stop(grace_s) for replica in running))
        self._slots.clear()

    # -- who is there ------------------------------------------------------------------

    def _become(self, planned: int, standby: int) -> None:
        todo = changes([self._standing(slot) for slot in self._slots.values()], planned, standby)
        for number, part in todo.parts:
            self._assign(self._slots[number], part)
        for part in todo.starts:
            number = next(each for each in range(len(self._slots) + 1) if each not in self._slots)
            slot = self._slots[number] = Slot(number, part)
            self._begin(slot)

    def _begin(self, slot: Slot) -> None:
        slot.keeping = asyncio.create_task(self._keep(slot), name=f"keeping {slot.name}")
        slot.keeping.add_done_callback(_tell_of)

    def _standing(self, slot: Slot) -> Standing:
        member = None if slot.ending else slot.member
        state = ReplicaState.GONE if member is None else member.state
        return Standing(slot.number, slot.part, state, self.outstanding(slot.name))

    def _assign(self, slot: Slot, part: Part) -> None:
        """Give a replica another part."""
        log.debug("replica %s: from %s to %s", slot.name, slot.part, part)
        slot.part = part
        if slot.ending:
            return  # its place is filled anew once it is free
        if slot.emptying is not None:
            slot.emptying.cancel()
            slot.emptying = None
        self._mark(slot)
        if part is Part.TRAFFIC:
            self._bring_back(slot)
        else:
            self._apply(slot, Event.DRAIN, "it is not needed any more")
            emptying = self._reserve(slot) if part is Part.STANDBY else self._remove(slot)
            slot.emptying = asyncio.create_task(emptying, name=f"emptying {slot.name}")
            slot.emptying.add_done_callback(_tell_of)

    def _mark(self, slot: Slot) -> None:
        """Let whoever watches the replica know its part."""
        if slot.member is not None:
            slot.member.leaving = {US} if slot.part is Part.LEAVING else set()
            slot.member.reserve = slot.part is Part.STANDBY

    def _bring_back(self, slot: Slot) -> None:
        if slot.member is not None and slot.member.state is ReplicaState.STANDBY:
            slot.awaited = ("standby", time.monotonic())
        self._apply(slot, Event.WOKEN, "it is woken")
        self._apply(slot, Event.RELEASED, "it is needed after all")

    async def _reserve(self, slot: Slot) -> None:
        await self._emptied(slot)
        self._apply(slot, Event.RESERVED, "it is kept on standby")

    async def _remove(self, slot: Slot) -> None:
        await self._emptied(slot, self.grace_s)
        slot.ending = True
        if slot.keeping is not None:
            slot.keeping.cancel()
            await asyncio.gather(slot.keeping, return_exceptions=True)
        if slot.replica is not None:
            await slot.replica.stop(self.grace_s)
            slot.replica = None
        self._apply(slot, Event.LOST, "it was not needed any more")
        slot.member, slot.ending, slot.emptying = None, False, None
        if slot.part is Part.LEAVING:
            del self._slots[slot.number]
        else:  # it was wanted again meanwhile
            self._begin(slot)

    async def _emptied(self, slot: Slot, at_most_s: float = math.inf) -> None:
        deadline = time.monotonic() + at_most_s
        while self.outstanding(slot.name) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S)

    # -- processes ---------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        ends, name = 0, slot.name
        while True:
            started = time.monotonic()
            end = await self._live(slot)
            if slot.part is Part.LEAVING:
                return
            if end.hopeless:
                log.error("replica %s ended (%s); starting it again can't help", name, end.reason)
                self.told.gave_up(end.reason)
                return
            ends = 1 if time.monotonic() - started > HEALTHY_S else ends + 1
            wait = self.backoff.after(ends)
            log.warning(
                "replica %s ended (%s); it is started again in %.1f s", name, end.reason, wait
            )
            await asyncio.sleep(wait)
            self.told.restarted()

    async def _live(self, slot: Slot) -> End:
        """One life of a replica."""
        slot.awaited = ("start", time.monotonic())
        try:
            slot.replica = await self.provider.start(slot.name)
        except SetupError as error:
            return End(error.message, hopeless=isinstance(error, SettingError))
        except OSError as error:  # no memory for a process, no room for its file
            return End(f"it could not be started: {error}", hopeless=False)
        slot.member = self.fleet.add(slot.name, slot.replica.url, time.monotonic())
        self._mark(slot)
        end = await self._ended(slot.replica, slot)
        slot.replica = None
        self._apply(slot, Event.LOST, end.reason)
        return end

    async def _ended(self, replica: Provided, slot: Slot) -> End:
        """How its life ended. One that does not answer in time is ended: it may hang for ever."""
        ending = asyncio.ensure_future(replica.ended())
        try:
            while not ending.done():
                await asyncio.wait({ending}, timeout=self.start_timeout_s / LOOKS)
                if not ending.done() and self._hangs(slot):
                    await replica.stop(LOOK_S)
                    return End(f"no answer within {self.start_timeout_s:g} s", hopeless=False)
            return await ending
        finally:
            ending.cancel()

    def _hangs(self, slot: Slot) -> bool:
        member = slot.member
        since = None if member is None else member.silent_since or member.failing_since
        return since is not None and time.monotonic() - since > self.start_timeout_s

    def _apply(self, slot: Slot, event: Event, reason: str) -> None:
        if slot.member is not None:
            self.fleet.apply(slot.member, event, time.monotonic(), reason)

    def _follow(self, member: Member, _left: ReplicaState) -> None:
        """Measure how long replicas take until they get traffic."""
        slot = next((each for each in self._slots.values() if each.member is member), None)
        if slot is None or slot.awaited is None:
            return
        if member.state is ReplicaState.STANDBY:
            slot.awaited = None
        elif member.state is ReplicaState.READY:
            came, since = slot.awaited
            seconds, slot.awaited = time.monotonic() - since, None
            if came == "start":
                self._starts_s = [*self._starts_s[1 - STARTS :], seconds]
            self.told.arrived(came, seconds)


def _tell_of(task: asyncio.Task[None]) -> None:
    """A bug that ends it must not pass in silence: nobody else would look after the replica."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("%s ended. This is a bug.", task.get_name(), exc_info=task.exception())
