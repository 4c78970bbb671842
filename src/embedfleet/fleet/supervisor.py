"""Supervises local replicas: starts them, restarts them when they exit, and scales them down.

Each slot for a replica has one task that performs its lifecycle in order: start, serve, drain,
start again. The wanted state of a slot may change at any moment; its task checks it wherever it
waits. A replica is first taken out of traffic, then its texts finish, then its process ends or goes
on standby. `sizing.py` decides which slots are filled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.providers.provider import End, Provided, Provider
from embedfleet.fleet.sizing import SlotRole, SlotStatus, changes
from embedfleet.fleet.states import Event
from embedfleet.runtime.background import cancelled
from embedfleet.vocabulary import ReplicaState, SettingError, SetupError

log = logging.getLogger(__name__)

DRAIN_OWNER = "supervisor"
"""Who lets a replica go."""

HEALTHY_S = 60.0
"""A replica that lived this long was well; its next end is a new matter, not a repeated one."""
STARTS = 20
"""So many of the last starts say how long one takes."""
POLL_S = 0.05
"""How often it is looked whether a replica that leaves has finished."""
POLLS = 10
"""How often it is looked within `start_timeout_s` whether a replica hangs."""


@dataclass(slots=True, eq=False)
class Slot:
    """A slot for one replica, which successive processes fill."""

    number: int
    role: SlotRole
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something else is wanted of it."""
    tending: asyncio.Task[None] | None = None
    replica: Provided | None = None
    member: Member | None = None
    emptying_since: float | None = None
    """Since when it finishes what it has, to end or to be kept on standby; None in traffic."""
    ending: bool = False
    """Whether its process was requested to exit: too late to keep it."""
    awaited: tuple[str, float] | None = None
    """Since when it is awaited in traffic, and from where: `start` or `standby`."""

    @property
    def name(self) -> str:
        return f"local-{self.number}"

    async def change(self, awaited: asyncio.Future[Any] | None, timeout_s: float) -> None:
        """Wait until something else is wanted, or `awaited` is done, or for so long."""
        self.changed.clear()
        changed = asyncio.ensure_future(self.changed.wait())
        both = {changed} if awaited is None else {changed, awaited}
        at_most = None if math.isinf(timeout_s) else timeout_s
        try:
            await asyncio.wait(both, timeout=at_most, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()


@dataclass(slots=True)
class SupervisorListener:
    """Callbacks for what happens to replicas."""

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
    listener: SupervisorListener = field(default_factory=SupervisorListener)
    _draining: bool = field(init=False, default=False)
    _tasks: asyncio.TaskGroup | None = field(init=False, default=None)
    _slots: dict[int, Slot] = field(init=False, default_factory=dict)
    _starts_s: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.fleet.listen(self._follow)

    @property
    def planned(self) -> int:
        """Replicas that are, or will be, in traffic."""
        return sum(slot.role is SlotRole.TRAFFIC for slot in self._slots.values())

    @property
    def standby(self) -> int:
        """Replicas that are, or will be, kept loaded out of traffic."""
        return sum(slot.role is SlotRole.STANDBY for slot in self._slots.values())

    @property
    def start_up_s(self) -> float:
        """Three of four of the last starts were quicker; NaN before the first."""
        return float(np.quantile(self._starts_s, 0.75)) if self._starts_s else math.nan

    async def run(self) -> None:
        """Tend to the replicas until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            for slot in self._slots.values():
                self._begin(slot, self._tasks)
            await asyncio.Event().wait()

    def start(self, count: int) -> None:
        """Keep `count` replicas alive, from when this is run."""
        self._become(count, self.standby)

    async def scale_to(self, planned: int, standby: int, reason: str) -> None:
        """Have `planned` replicas in traffic and `standby` beside them; returns at once."""
        log.debug("scaling to %d replicas and %d on standby: %s", planned, standby, reason)
        self._become(planned, standby)

    def drain(self) -> None:
        """Start nothing more; running replicas continue."""
        self._draining = True
        for slot in self._slots.values():
            slot.changed.set()

    async def stop(self, grace_s: float) -> None:
        """End every replica; they finish what they have within `grace_s` seconds."""
        self.drain()
        slots = list(self._slots.values())
        await cancelled(*(slot.tending for slot in slots if slot.tending is not None))
        running = [slot.replica for slot in slots if slot.replica is not None]
        await asyncio.gather(*(replica.stop(grace_s) for replica in running))
        self._slots.clear()

    # -- who is there ------------------------------------------------------------------

    def _become(self, planned: int, standby: int) -> None:
        if self._draining:
            return
        todo = changes([self._status(slot) for slot in self._slots.values()], planned, standby)
        for number, role in todo.roles:
            self._assign(self._slots[number], role)
        for role in todo.starts:
            number = next(each for each in range(len(self._slots) + 1) if each not in self._slots)
            slot = self._slots[number] = Slot(number, role)
            if self._tasks is not None:
                self._begin(slot, self._tasks)

    def _begin(self, slot: Slot, tasks: asyncio.TaskGroup) -> None:
        slot.tending = tasks.create_task(self._tend(slot), name=f"tending {slot.name}")

    def _status(self, slot: Slot) -> SlotStatus:
        member = None if slot.ending else slot.member
        state = ReplicaState.GONE if member is None else member.state
        return SlotStatus(slot.number, slot.role, state, self.outstanding(slot.name))

    def _assign(self, slot: Slot, role: SlotRole) -> None:
        """Give a replica another part; its task does what follows."""
        log.debug("replica %s: from %s to %s", slot.name, slot.role, role)
        slot.role = role
        slot.changed.set()
        if slot.ending:
            return  # its place is filled anew once it is free
        self._mark(slot)
        if role is SlotRole.TRAFFIC:
            slot.emptying_since = None
            self._bring_back(slot)
        else:
            slot.emptying_since = time.monotonic()
            self._apply(slot, Event.DRAIN, "it is no longer needed")

    def _mark(self, slot: Slot) -> None:
        """Pass the slot's role on to the replica's fleet entry."""
        if slot.member is not None:
            if slot.role is SlotRole.LEAVING:
                slot.member.leaving.add(DRAIN_OWNER)
            else:
                slot.member.leaving.discard(DRAIN_OWNER)
            slot.member.reserve = slot.role is SlotRole.STANDBY

    def _bring_back(self, slot: Slot) -> None:
        if slot.member is not None and slot.member.state is ReplicaState.STANDBY:
            slot.awaited = ("standby", time.monotonic())
        self._apply(slot, Event.WOKEN, "it leaves standby")
        if slot.member is not None and not slot.member.leaving:
            self._apply(slot, Event.RELEASED, "it is needed after all")

    # -- one place ---------------------------------------------------------------------

    async def _tend(self, slot: Slot) -> None:
        """Keep a process in a place for as long as the place is needed."""
        ends = 0
        while self._needed(slot):
            started = time.monotonic()
            end = await self._live(slot)
            if end is None or not self._needed(slot):
                continue
            if end.hopeless:
                log.error(
                    "replica %s exited (%s); not restarting it, as that would not help",
                    slot.name,
                    end.reason,
                )
                self.listener.gave_up(end.reason)
                await self._pause(slot, math.inf)
                continue
            ends = 1 if time.monotonic() - started > HEALTHY_S else ends + 1
            wait = self.backoff.after(ends)
            log.warning(
                "replica %s exited (%s); restarting it in %.1f s", slot.name, end.reason, wait
            )
            await self._pause(slot, wait)
            if self._needed(slot):
                self.listener.restarted()
        self._slots.pop(slot.number, None)

    def _needed(self, slot: Slot) -> bool:
        return slot.role is not SlotRole.LEAVING and not self._draining

    async def _pause(self, slot: Slot, seconds: float) -> None:
        """Wait, while the place is needed."""
        until = time.monotonic() + seconds
        while self._needed(slot) and (left := until - time.monotonic()) > 0:
            await slot.change(None, left)

    async def _live(self, slot: Slot) -> End | None:
        """One life of a replica, and how it ended; None when it was removed."""
        slot.awaited, slot.emptying_since = ("start", time.monotonic()), None
        try:
            await self._start(slot)
        except SetupError as error:
            return End(error.message, hopeless=isinstance(error, SettingError))
        except OSError as error:  # no memory for a process, no room for its file
            return End(f"it could not be started: {error}", hopeless=False)
        if slot.replica is None:
            return None
        slot.member = self.fleet.add(slot.name, slot.replica.url, time.monotonic())
        self._mark(slot)
        if slot.role is SlotRole.LEAVING:  # the role changed during the start
            slot.emptying_since = time.monotonic()
        end = await self._ended(slot, slot.replica)
        self._apply(slot, Event.LOST, "it was no longer needed" if end is None else end.reason)
        slot.replica, slot.member, slot.ending = None, None, False
        return end

    async def _start(self, slot: Slot) -> None:
        """Fill the place with a replica that has an address; with none where it is not needed any
        more before that.
        """

        async def fill() -> None:  # at once: a start that ends while we are cancelled is not lost
            slot.replica = await self.provider.start(slot.name)

        filling = asyncio.ensure_future(fill())
        try:
            while not filling.done() and self._needed(slot):
                await slot.change(filling, math.inf)
        finally:
            await cancelled(filling)
        if not filling.cancelled():
            filling.result()

    async def _ended(self, slot: Slot, replica: Provided) -> End | None:
        """How its life ended; None when it was removed.

        One that does not answer in time is ended: it may hang for ever.
        """
        ending = asyncio.ensure_future(replica.ended())
        try:
            while not ending.done():
                if slot.emptying_since is not None and self._emptied(slot):
                    if slot.role is SlotRole.LEAVING:
                        slot.ending = True
                        await replica.stop(self.grace_s)
                        return None
                    slot.emptying_since = None
                    self._apply(slot, Event.RESERVED, "it is kept on standby")
                if self._hangs(slot):
                    await replica.stop(POLL_S)
                    return End(f"no answer within {self.start_timeout_s:g} s", hopeless=False)
                empties = slot.emptying_since is not None
                await slot.change(ending, POLL_S if empties else self.start_timeout_s / POLLS)
            return ending.result()
        finally:
            await cancelled(ending)

    def _emptied(self, slot: Slot) -> bool:
        """Whether it has finished what it had, or had its time to."""
        since = slot.emptying_since or 0.0
        late = slot.role is SlotRole.LEAVING and time.monotonic() - since >= self.grace_s
        return late or not self.outstanding(slot.name)

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
            self.listener.arrived(came, seconds)
