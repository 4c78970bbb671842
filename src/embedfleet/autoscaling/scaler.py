"""The control loop of a pool's autoscaler.

Each tick takes an observation (`ObservationSource`), decides (`policy.decide`), applies the
decision (`Target`) and records it. Any failure on the way holds the number of replicas, is reported
with its reason, and never ends the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from embedfleet.autoscaling.adapting import Experience, decide
from embedfleet.autoscaling.journal import Entry, Journal, Mode
from embedfleet.autoscaling.policy import Decision, held, unheeded
from embedfleet.autoscaling.schedule import parse
from embedfleet.autoscaling.signals import MOST, Observation
from embedfleet.runtime.settings import AutoscalingSettings
from embedfleet.vocabulary import CallerError, EmbedfleetError

log = logging.getLogger(__name__)

REMEMBERED = 200
"""Different decisions kept for people; ten minutes in the worst case, days in a quiet pool."""


class ObservationSource(Protocol):
    """Observes the load of a pool."""

    async def observe(self, now: float) -> Observation:
        """The pool at `now`, monotonic seconds: traffic, work, latency and how many replicas are
        ready. What can't be measured is NaN; EmbedfleetError when nothing can be. What the target
        knows better (`starting`, `standby`, `start_up_s`) need not be told.
        """
        ...


class Target(Protocol):
    """Starts and stops a pool's replicas."""

    @property
    def planned(self) -> int:
        """Replicas ordered to be in traffic, whether they are yet or not."""
        ...

    @property
    def standby(self) -> int:
        """Replicas ordered to be kept loaded beside them, out of traffic."""
        ...

    @property
    def start_up_s(self) -> float:
        """Seconds from an order to a replica's first traffic: three of four of the last starts
        were quicker. NaN before the first; wake-ups from standby do not count.
        """
        ...

    async def scale_to(self, planned: int, standby: int, reason: str) -> None:
        """Order so many replicas; return when that is on its way, not when they are ready. Those
        that go finish what they have. EmbedfleetError when it can't be ordered.
        """
        ...


class Scaler:
    """One pool's autoscaler."""

    def __init__(
        self,
        pool: str,
        source: ObservationSource,
        target: Target,
        settings: AutoscalingSettings,
        *,
        on_decision: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        """`on_decision` is called with every decision. SettingError if the schedule is invalid."""
        self.pool = pool
        self.settings = settings
        self.journal = Journal(REMEMBERED)
        self.mode = Mode.AUTOMATIC
        self.pinned: int | None = None
        """The number set by hand."""
        self._source = source
        self._target = target
        self._schedule = parse(settings.schedule)
        self._on_decision = on_decision
        self.experience = Experience()
        self._steered = asyncio.Event()

    # -- by hand -----------------------------------------------------------------------

    def pause(self) -> None:
        """Leave the number of replicas as it is, until `resume`."""
        self._steer(Mode.PAUSED, None)

    def pin(self, replicas: int) -> None:
        """Have this number of replicas until `resume`. CallerError beyond what is allowed."""
        most = self.settings.max_replicas
        if not 0 <= replicas <= most:
            raise CallerError(
                f"{replicas} replicas: the pool {self.pool} takes 0 to {most} "
                "(pools.max_replicas or autoscaling.max_replicas)",
                param="replicas",
            )
        self._steer(Mode.PINNED, replicas)

    def resume(self) -> None:
        """Let the policy decide again."""
        self._steer(Mode.AUTOMATIC, None)

    def _steer(self, mode: Mode, pinned: int | None) -> None:
        self.mode, self.pinned = mode, pinned
        log.info(
            "pool %s: autoscaling is %s%s",
            self.pool,
            mode,
            "" if pinned is None else f" at {pinned}",
        )
        self._steered.set()

    # -- the loop ----------------------------------------------------------------------

    async def run(self) -> None:
        """Decide every tick, and at once after a manual change, until cancelled."""
        while True:
            await self.tick(time.monotonic(), datetime.now().astimezone())
            # Not wait_for: before 3.12 it may swallow a cancellation that meets its time-out.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.tick_s):
                    await self._steered.wait()
            self._steered.clear()

    async def tick(self, now: float, clock: datetime) -> Entry:
        """Decide once, have it carried out, and remember it."""
        seen, decision, experience = await self._decided(now, clock)
        planned, standby = self._ordered(decision)
        trouble = ""
        if (planned, standby) != (self._target.planned, self._target.standby):
            trouble = await self._order(planned, standby, decision)
        followed = self.mode is Mode.AUTOMATIC and not trouble
        if not followed:
            kept = unheeded(self.experience.memory, experience.memory)
            experience = replace(experience, memory=kept)
        self.experience = experience
        entry = Entry(clock, clock, 1, self.mode, seen, decision, planned, standby, trouble)
        self._tell(entry)
        self.journal.note(entry)
        self._on_decision(entry)
        return entry

    async def _decided(
        self, now: float, clock: datetime
    ) -> tuple[Observation, Decision, Experience]:
        try:
            async with asyncio.timeout(self.settings.stale_s):
                seen = await self._source.observe(now)
            seen = self._completed(seen, now, clock)
            return (seen, *decide(seen, self.experience, self.settings, self._schedule))
        except TimeoutError:
            complaint = f"no observation within {self.settings.stale_s:g} s"
        except EmbedfleetError as error:
            complaint = f"no observation: {error.message}"
        except Exception as error:  # the loop must go on whatever source or policy do
            log.exception("deciding on pool %s failed. This is a bug.", self.pool)
            complaint = f"the decision failed: {error!r}"
        blind = self._completed(Observation(now, self._target.planned), now, clock)
        decision, memory = held(blind, complaint, self.experience.memory, self.settings)
        return blind, decision, replace(self.experience, memory=memory)

    def _completed(self, seen: Observation, now: float, clock: datetime) -> Observation:
        """With what the target knows.

        Draining replicas may stay ready for minutes. They don't count as planned, or the next tick
        would undo every scale-down. Absurd figures are left for `fault`.
        """
        target = self._target
        ready = min(seen.ready, target.planned) if seen.ready < MOST else seen.ready
        return replace(
            seen,
            now=now,
            ready=ready,
            starting=max(0, target.planned - ready),
            standby=target.standby,
            start_up_s=target.start_up_s,
            clock=clock,
        )

    def _ordered(self, decision: Decision) -> tuple[int, int]:
        """Replicas, and standby. An absurd number of observed replicas changes nothing."""
        match self.mode:
            case Mode.AUTOMATIC if not decision.held:
                most = max(self.settings.max_replicas, self._target.planned)
                return min(decision.planned, most), decision.standby
            case Mode.PINNED if self.pinned is not None:
                room = self.settings.max_replicas - self.pinned
                return self.pinned, min(self.settings.standby, room)
            case Mode.AUTOMATIC:
                # The minimum needs no signal; without a replica there is no measured speed.
                planned = max(self.settings.min_replicas, self._target.planned)
                room = max(0, self.settings.max_replicas - planned)
                return planned, min(self._target.standby, room)
            case _:
                return self._target.planned, self._target.standby

    async def _order(self, planned: int, standby: int, decision: Decision) -> str:
        """Have it carried out; say why not, or nothing."""
        reason = decision.reason if self.mode is Mode.AUTOMATIC else "set manually"
        try:
            await self._target.scale_to(planned, standby, reason)
        except EmbedfleetError as error:
            last = self.journal.last
            repeated = last is not None and last.trouble == error.message
            level = logging.DEBUG if repeated else logging.WARNING
            said = "pool %s: can't scale to %d replicas: %s"
            log.log(level, said, self.pool, planned, error.message)
            return error.message
        except Exception as error:  # the loop must go on whatever the target does
            log.exception("scaling pool %s failed. This is a bug.", self.pool)
            return repr(error)
        return ""

    def _tell(self, entry: Entry) -> None:
        """Log each change, and when observations are lost or available again."""
        decision, last = entry.decision, self.journal.last
        was_held = last is not None and last.decision.held
        if decision.held and not was_held:
            # At the start it is usual: no replica has said yet what it can do.
            level = logging.INFO if last is None else logging.WARNING
            log.log(level, "pool %s: autoscaling is %s", self.pool, decision.reason)
        elif was_held and not decision.held:
            log.info("pool %s: metrics are available again; autoscaling resumed", self.pool)
        if entry.changed and not entry.trouble:
            by_hand = f"{entry.seen.planned} -> {entry.ordered}: set manually"
            reason = decision.reason if entry.mode is Mode.AUTOMATIC else by_hand
            log.info("pool %s: replicas %s", self.pool, reason)
