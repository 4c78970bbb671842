"""The simulated fleet: replicas are ordered, started, woken and drained, and cost money."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from embedfleet.simulator.profiles import Profile
from embedfleet.simulator.scalers import Order


@dataclass(slots=True, eq=False)
class Member:
    """One replica on its way."""

    name: str
    ordered_s: float
    ready_s: float
    """When it is loaded."""
    woken: bool = False
    """Whether it comes from standby."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What an order did."""

    starting: tuple[Member, ...] = ()
    """They get traffic at their `ready_s`."""
    cancelled: tuple[str, ...] = ()
    """They never got traffic."""
    leaving: tuple[str, ...] = ()
    """They get nothing new from now on."""


@dataclass(slots=True)
class Cluster:
    """Who is ready, starting and on standby, and how many replica-seconds that took."""

    profile: Profile
    rng: np.random.Generator
    now: float = 0.0
    replica_s: float = 0.0
    """Paid for so far: everything that exists, whether it serves or not."""
    events: int = 0
    """How often the planned number changed."""
    ready: dict[str, Member] = field(default_factory=dict)
    starting: dict[str, Member] = field(default_factory=dict)
    standby: dict[str, Member] = field(default_factory=dict)
    draining: dict[str, Member] = field(default_factory=dict)
    starts_s: list[float] = field(default_factory=list)
    """How long the last starts took."""
    start_up_s: float = math.nan
    """Three of four of them were quicker; NaN before the first."""
    _names: count[int] = field(default_factory=count)

    def begin(self, ready: int, standby: int) -> None:
        """The fleet that is there at the start."""
        for _ in range(ready):
            member = self._new(0.0)
            self.ready[member.name] = member
        for _ in range(standby):
            member = self._new(0.0)
            self.standby[member.name] = member

    def advance(self, now: float) -> None:
        """Pay for the time until `now`."""
        existing = len(self.ready) + len(self.starting) + len(self.standby) + len(self.draining)
        self.replica_s += existing * (now - self.now)
        self.now = now

    def arrived(self, name: str) -> bool:
        """A replica is loaded; False if it was cancelled meanwhile."""
        member = self.starting.pop(name, None)
        if member is None:
            return False
        self.ready[name] = member
        if not member.woken:
            self.starts_s = [*self.starts_s[-19:], member.ready_s - member.ordered_s]
            self.start_up_s = float(np.quantile(self.starts_s, 0.75))
        return True

    def gone(self, name: str) -> None:
        """A replica that drained is empty, or one died."""
        self.draining.pop(name, None)
        self.ready.pop(name, None)

    def follow(self, order: Order, work_of: Callable[[str], float]) -> Changes:
        """Start, wake, cancel and drain, until what exists is what is ordered.

        `work_of` tells how much a ready replica has to do: the idlest go first.
        """
        planned = len(self.ready) + len(self.starting)
        if order.planned != planned:
            self.events += 1
        changes = Changes()
        if order.planned > planned:
            changes = Changes(starting=tuple(self._grow(order.planned - planned)))
        elif order.planned < planned:
            changes = self._shrink(planned - order.planned, order.standby, work_of)
        self._hold(order.standby)
        return changes

    def _grow(self, many: int) -> list[Member]:
        grown = []
        for _ in range(many):
            awake = next((each for each in self.standby.values() if each.ready_s <= self.now), None)
            if awake is not None:
                del self.standby[awake.name]
                member = Member(awake.name, self.now, self.now + self.profile.wake_s, woken=True)
            else:
                member = self._new(self._start_s())
            self.starting[member.name] = member
            grown.append(member)
        return grown

    def _shrink(self, many: int, standby: int, work_of: Callable[[str], float]) -> Changes:
        latest = sorted(self.starting.values(), key=lambda each: -each.ready_s)
        cancelled = tuple(each.name for each in latest[:many])
        for name in cancelled:
            del self.starting[name]
        idlest = sorted(self.ready, key=lambda name: (work_of(name), name))
        leaving = tuple(idlest[: many - len(cancelled)])
        for name in leaving:
            member = self.ready.pop(name)
            if len(self.standby) < standby:
                # What it still has is finished beside; it is loaded already.
                self.standby[name] = Member(name, member.ordered_s, self.now)
            else:
                self.draining[name] = member
        return Changes(cancelled=cancelled, leaving=leaving)

    def _hold(self, standby: int) -> None:
        while len(self.standby) < standby:
            member = self._new(self._start_s())
            self.standby[member.name] = member
        while len(self.standby) > standby:
            self.standby.popitem()

    def _new(self, after_s: float) -> Member:
        return Member(f"r{next(self._names)}", self.now, self.now + after_s)

    def _start_s(self) -> float:
        spread = self.profile.start_spread
        return self.profile.start_s * float(np.exp(spread * self.rng.standard_normal()))
