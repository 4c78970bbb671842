"""A worker's mirror of the primary's fleet, and the results of the worker's calls.

The primary alone decides which replicas exist and which are healthy; workers follow. The results
of a worker's calls are aggregated and sent to the primary a few times a second, so that a thousand
calls a second are not a thousand messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.measured import MEASUREMENTS, MeasuredCost, Work
from embedfleet.server.gateway.workers.messages import CallReport, MemberUpdate
from embedfleet.vocabulary import ReplicaState

MOST_FAILURES = 100
"""Bound on the failures of a replica in one report; more in a row would change nothing."""


class MirroredFleet(Fleet):
    """A pool's fleet in a worker: only the primary changes it."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self._pool = pool
        self._calls: dict[str, CallReport] = {}

    def follow(self, update: MemberUpdate) -> None:
        """Apply the primary's update of a replica."""
        member = self._members.get(update.name)
        if member is not None and member.url != update.url:
            self._enter(member, ReplicaState.GONE, update)
            member = None
        if member is None:
            if update.state is ReplicaState.GONE:
                return
            member = Member(update.name, update.url, ReplicaState.STARTING, update.since)
            self._members[update.name] = member
            self._tell(member, ReplicaState.GONE)
        member.description, member.weight = update.description, update.weight
        member.failing_checks = update.failing_checks
        self._enter(member, update.state, update)

    def succeeded(self, member: Member, now: float) -> None:  # noqa: ARG002
        calls = self._of(member)
        calls.succeeded += 1
        calls.failed, calls.lost = 0, False

    def failed(
        self,
        member: Member,
        now: float,  # noqa: ARG002
        reason: str,
        *,
        lost: bool = False,
    ) -> None:
        calls = self._of(member)
        calls.failed = min(calls.failed + 1, MOST_FAILURES)
        calls.reason, calls.lost = reason, calls.lost or lost

    def refused(
        self,
        member: Member,
        now: float,  # noqa: ARG002
        reason: str,
        *,
        wait_s: float = 0.0,
    ) -> None:
        calls = self._of(member)
        calls.refused_s, calls.reason = max(wait_s, calls.refused_s or 0.0), reason

    def measure(self, member: Member, work: Work, now: float) -> None:
        super().measure(member, work, now)
        calls = self._of(member)
        calls.works = [*calls.works[1 - MEASUREMENTS :], work]

    def calls(self) -> Sequence[CallReport]:
        """Results of calls since the last report."""
        update, self._calls = tuple(self._calls.values()), {}
        return update

    def _of(self, member: Member) -> CallReport:
        calls = self._calls.get(member.name)
        if calls is None:
            calls = CallReport(self._pool, member.name, 0, 0, "", lost=False)
            self._calls[member.name] = calls
        return calls

    def _enter(self, member: Member, state: ReplicaState, update: MemberUpdate) -> None:
        left = member.state
        member.since, member.reason, member.trouble = update.since, update.reason, update.trouble
        if state is left:
            return
        member.state = state
        if state is ReplicaState.STARTING:
            member.measured = MeasuredCost()  # another process may answer there
        if state is ReplicaState.GONE:
            del self._members[member.name]
        self._tell(member, left)


class Publisher:
    """Publishes a pool's fleet from the primary to every worker as it changes."""

    def __init__(self, pool: int, fleet: Fleet, send: Callable[[MemberUpdate], None]) -> None:
        """`send` reaches all workers."""
        self._pool = pool
        self._fleet = fleet
        self._send = send
        self._sent: dict[str, MemberUpdate] = {}
        fleet.listen(lambda member, _left: send(self._update_of(member)))

    def everything(self) -> Iterable[MemberUpdate]:
        """The whole fleet, for a worker that has just started."""
        return [self._update_of(member) for member in self._fleet]

    def refresh(self) -> None:
        """Send what changed without a change of state: costs with every probe, failing checks."""
        updates = {update.name: update for update in self.everything()}
        for update in updates.values():
            if update != self._sent.get(update.name):
                self._send(update)
        self._sent = updates

    def take(self, update: CallReport, now: float) -> None:
        """Apply the results of a worker's calls to the fleet."""
        member = next((each for each in self._fleet if each.name == update.member), None)
        if member is None:
            return
        for work in update.works:
            self._fleet.measure(member, work, now)
        if update.succeeded:
            self._fleet.succeeded(member, now)
        for _ in range(update.failed):
            self._fleet.failed(member, now, update.reason, lost=update.lost)
        if update.refused_s is not None:
            self._fleet.refused(member, now, update.reason, wait_s=update.refused_s)

    def _update_of(self, member: Member) -> MemberUpdate:
        return MemberUpdate(
            self._pool,
            member.name,
            member.url,
            member.state,
            member.since,
            member.reason,
            member.trouble,
            member.weight,
            member.description,
            dict(member.failing_checks),
        )
