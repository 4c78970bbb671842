"""The loop that looks at replicas and keeps the fleet's table true.

A shell around `health.py`: it asks, lets the answer be judged, and applies the event. Refuses to
judge, to start or stop replicas, and to hand out work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Protocol

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.health import EJECTION, Expected, Look, judge, released, slowdown
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import EmbedfleetError, ReplicaState, UnfitReplicaError
from embedfleet.wire.description import ReplicaDescription

log = logging.getLogger(__name__)


class Contact(Protocol):
    """How a pool talks to its replicas about themselves."""

    async def describe(self, url: str) -> ReplicaDescription:
        """What the replica says of itself; EmbedfleetError when it says nothing sensible."""
        ...

    async def expected(self, url: str, description: ReplicaDescription) -> Expected:
        """What replicas of this pool must be. The first replica to answer may be asked for the
        model's files here. EmbedfleetError when that fails.
        """
        ...

    async def verify(self, url: str) -> str:
        """Compare with the golden vectors: what is wrong, or empty. EmbedfleetError when the
        replica can't be asked.
        """
        ...


class Prober:
    """Watches every member of one fleet."""

    def __init__(
        self,
        fleet: Fleet,
        contact: Contact,
        *,
        interval_s: float,
        verify_interval_s: float,
        verify_timeout_s: float,
        times: Backoff = EJECTION,
    ) -> None:
        self._fleet = fleet
        self._contact = contact
        self._interval_s = interval_s
        self._verify_interval_s = verify_interval_s
        self._verify_timeout_s = verify_timeout_s
        self._times = times
        self._watches: dict[Member, asyncio.Task[None]] = {}
        self._nudges: dict[Member, asyncio.Event] = {}
        fleet.listen(self._follow)

    async def close(self) -> None:
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    def _follow(self, member: Member, left: ReplicaState) -> None:
        if left is ReplicaState.GONE:
            self._nudges[member] = asyncio.Event()
            watch = asyncio.create_task(self._watch(member), name=f"watching {member.name}")
            watch.add_done_callback(_ended)
            self._watches[member] = watch
        elif member.state is ReplicaState.GONE:
            self._watches.pop(member).cancel()
            del self._nudges[member]
        elif left in {ReplicaState.STANDBY, ReplicaState.DRAINING}:
            self._nudges[member].set()

    async def _watch(self, member: Member) -> None:
        verified = time.monotonic()
        while True:
            before = member.state
            await self._attend(member)
            if before is ReplicaState.VERIFYING:
                verified = time.monotonic()
            elif self._doubtful(member, verified):
                verified = time.monotonic()
                await self._verify(member)
            if member.state is before:
                # A starting replica is asked more often: those who wait for it wait for this.
                patience = 0.1 if before is ReplicaState.STARTING else 1.0
                await self._rest(member, self._interval_s * patience)

    async def _rest(self, member: Member, seconds: float) -> None:
        """Pause between two looks; who is wanted in traffic again is looked at at once."""
        nudge = self._nudges[member]
        # Not wait_for: before Python 3.12 it may swallow a cancellation that meets its time-out.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await nudge.wait()
        nudge.clear()

    def _doubtful(self, member: Member, verified: float) -> bool:
        """Whether a replica in traffic should prove its vectors again."""
        due = time.monotonic() - verified >= self._verify_interval_s
        return due and member.state is ReplicaState.READY

    async def _attend(self, member: Member) -> None:
        stayed = time.monotonic() - member.since
        if member.state is ReplicaState.VERIFYING:
            await self._verify(member)
        elif member.state in {ReplicaState.EJECTED, ReplicaState.DRAINING}:
            emptied = member.reserve and member.state is ReplicaState.DRAINING
            kept = member.leaving or emptied
            if not kept and released(member.state, member.ejections, stayed, self._times):
                self._apply(member, Event.RELEASED, "it is given another chance")
        else:
            await self._probe(member)

    async def _probe(self, member: Member) -> None:
        expected: Expected | None = None
        try:
            description = await self._contact.describe(member.url)
            expected = await self._contact.expected(member.url, description)
            others = [
                other.description
                for other in self._fleet
                if other is not member and other.description is not None
            ]
            look = Look(description, slowdown=slowdown(description, others))
            member.description = description
        except UnfitReplicaError as error:
            self._apply(member, Event.REFUSED, error.message)
            return
        except EmbedfleetError as error:
            look = Look(None, error.message)
        except OSError as error:  # no room for the model's files, no file left to open
            look = Look(None, str(error))
        verdict = judge(member.state, look, expected)
        if verdict is not None:
            self._apply(member, *verdict)

    async def _verify(self, member: Member) -> None:
        try:
            async with asyncio.timeout(self._verify_timeout_s):
                wrong = await self._contact.verify(member.url)
        except EmbedfleetError as error:
            self._apply(member, Event.FAILED, f"it could not be verified: {error.message}")
            return
        except TimeoutError:  # before OSError, of which it is one
            reason = f"no golden vectors within {self._verify_timeout_s:g} s"
            self._apply(member, Event.FAILED, reason)
            return
        except OSError as error:
            self._apply(member, Event.FAILED, f"it could not be verified: {error}")
            return
        if wrong:
            self._apply(member, Event.REFUSED, wrong)
        elif member.leaving and member.state is ReplicaState.VERIFYING:
            self._apply(member, Event.DRAIN, "its vectors are right, and it is to go")
        elif member.reserve and member.state is ReplicaState.VERIFYING:
            self._apply(member, Event.RESERVED, "its vectors are right, and it is kept on standby")
        else:
            self._apply(member, Event.VERIFIED, "its vectors are right")

    def _apply(self, member: Member, event: Event, reason: str) -> None:
        if self._fleet.apply(member, event, time.monotonic(), reason):
            level = logging.WARNING if event in {Event.FAILED, Event.REFUSED} else logging.INFO
            log.log(level, "replica %s is %s: %s", member.name, member.state, reason)


def _ended(task: asyncio.Task[None]) -> None:
    """It watches until it is cancelled; a bug that ends it must not pass in silence."""
    if not task.cancelled():
        log.critical("%s ended. This is a bug.", task.get_name(), exc_info=task.exception())
