"""The replica table of a pool, shared by data path and control path.

The control path adds, probes and removes replicas; the data path reads the table and reports how
its calls ended (`succeeded`, `failed`, `refused`). `health.py` judges these reports, and the table
in `states.py` applies the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from embedfleet.fleet.health import SERVING, Conduct, Peers, Sign, judge
from embedfleet.fleet.measured import MeasuredCost, Work, usual
from embedfleet.fleet.states import Event, after
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import ReplicaState
from embedfleet.work import MEASURED, PRIOR, CostModel

MOST_REASON = 500
"""Characters of a reason: it may repeat what a replica said, and is shown and logged."""


@dataclass(slots=True, eq=False)
class Member:
    """One replica as the fleet sees it."""

    name: str
    url: str
    state: ReplicaState
    since: float
    """When it entered the state, monotonic seconds."""
    reason: str = ""
    """Why it is there, for people."""
    description: ReplicaDescription | None = None
    """What it said of itself last."""
    weight: float = 1.0
    """Its share where shares are set by hand."""
    conduct: Conduct = field(default_factory=Conduct)
    """How it has behaved."""
    measured: MeasuredCost = field(default_factory=MeasuredCost)
    """What its calls show of its speed."""
    answered_at: float = -math.inf
    """When a call brought right answers last, monotonic seconds."""
    trouble: str = ""
    """Why it is not available, in words that clients may see: without addresses, files and what the
    replica said."""
    silent_since: float | None = None
    """Since when it has answered no probe; None if it answered the last one."""
    failing_since: float | None = None
    """Since when it has failed whatever it was asked for; None where it is well, or something
    else is wrong with it."""
    failing_checks: dict[str, str] = field(default_factory=dict)
    """The checks (probes, trials) that it fails while its calls keep it in traffic, and why."""
    leaving: set[str] = field(default_factory=set)
    """The components that drain it; while there is one, it is not readmitted."""
    reserve: bool = False
    """Whether it is to be on standby: well, it gets no traffic."""

    def cost(self, now: float) -> CostModel:
        """What a batch costs it: as it says, held to what was measured."""
        description = self.description
        return self.measured.held(
            PRIOR if description is None else CostModel(*description.cost), now
        )

    @property
    def explained(self) -> str:
        """Why it is in its state, and what speaks against that."""
        against = "; ".join(f"{check}: {why}" for check, why in self.failing_checks.items())
        if not against:
            return self.reason
        return f"{self.reason}, but it fails checks ({against})"

    @property
    def ejections(self) -> int:
        """Ejections, less those that decayed while it was ready."""
        return self.conduct.ejections


Listener = Callable[[Member, ReplicaState], None]
"""Called after a change with the member and the state it left."""


class Fleet:
    """The replicas of one pool."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._listeners: list[Listener] = []
        self._nobody_since: float | None = None
        """When the last replica in traffic went, monotonic seconds; None while there is one."""

    def __repr__(self) -> str:
        states = ", ".join(f"{member.name} {member.state}" for member in self)
        return f"<Fleet [{states}]>"

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __len__(self) -> int:
        return len(self._members)

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def add(self, name: str, url: str, now: float, *, weight: float = 1.0) -> Member:
        """A new replica, starting; it replaces one of the same name, which is lost first."""
        previous = self._members.get(name)
        if previous is not None:
            self.apply(previous, Event.LOST, now, "replaced")
        member = Member(name, url, ReplicaState.STARTING, now, weight=weight, silent_since=now)
        self._members[name] = member
        self._tell(member, ReplicaState.GONE)
        return member

    # -- what the data path reports -----------------------------------------------------

    def succeeded(self, member: Member, now: float) -> None:
        """A call of traffic brought right answers."""
        member.answered_at = now
        conduct = member.conduct
        if conduct.failures or conduct.misses or conduct.probation:
            self.observe(member, Sign.SUCCEEDED, now, "its answers are right")

    def failed(self, member: Member, now: float, reason: str, *, lost: bool = False) -> None:
        """A call of traffic failed: an error, nonsense, a time-out, a hedge that another won.

        `lost` where the connection broke or the process died: then one failure is enough.
        """
        self.observe(member, Sign.LOST if lost else Sign.FAILED, now, reason)

    def refused(self, member: Member, now: float, reason: str, *, wait_s: float = 0.0) -> None:
        """It takes nothing new, because it drains or has too much to do; `wait_s` is for how long
        it asks to be left alone.
        """
        if self.apply(member, Event.DRAIN, now, reason):
            member.conduct = member.conduct.refused(now, wait_s)

    def measure(self, member: Member, work: Work, now: float) -> None:
        """What a replica answered lately, and how long it had calls for that."""
        member.measured = member.measured.after(work, now)

    # -- who lets a replica go --------------------------------------------------------------

    def drain(self, member: Member, owner: str, now: float, reason: str) -> None:
        """Let it finish what it has, and get nothing new for as long as `owner` wants that."""
        member.leaving.add(owner)
        self.apply(member, Event.DRAIN, now, reason)

    def readmit(self, member: Member, owner: str, now: float, reason: str) -> None:
        """`owner` withdraws its drain: the replica starts over, unless another owner drains it."""
        member.leaving.discard(owner)
        if not member.leaving:
            self.apply(member, Event.RELEASED, now, reason)

    # -- what any part of the control path does -------------------------------------------

    def observe(self, member: Member, sign: Sign, now: float, reason: str) -> bool:
        """Take a sign into account; return whether the replica's state changed."""
        before = member.state, member.conduct
        member.conduct, event = judge(*before, sign, self.peers(member))
        return event is not None and self.apply(member, event, now, reason)

    def found_wrong(self, member: Member, now: float, reason: str) -> None:
        """It gave wrong vectors amid traffic, where a trial had found right ones: it gets none
        before it has given right ones many times.
        """
        member.conduct = replace(member.conduct, wrong=True)
        self.apply(member, Event.REFUSED, now, reason)

    def note(self, member: Member, reason: str) -> None:
        """Why a starting replica is not available."""
        member.reason = shown(reason, MOST_REASON)

    def check_failed(self, member: Member, check: str, reason: str) -> None:
        """A replica in traffic fails a check: its calls decide if it stays, people are told."""
        if member.state in SERVING:
            member.failing_checks[check] = shown(reason, MOST_REASON)

    def check_passed(self, member: Member, check: str) -> bool:
        """Return whether it had failed that one before."""
        return member.failing_checks.pop(check, None) is not None

    def wanted(self, member: Member) -> bool:
        """Whether another chance for an ejected or suspect replica is not to wait for long.

        Nothing else is ready beside a suspect one; or all that served has gone since this one was
        ejected, which cuts its pause short once.
        """
        if member.state is ReplicaState.SUSPECT:
            return not self.peers(member).ready
        since = self._nobody_since
        return since is not None and since > member.conduct.ejected_at

    def idle_beside_others(self, member: Member, now: float, idle_s: float) -> bool:
        """Whether others of the pool answer calls, and this one has not for so long."""
        if now - member.answered_at < idle_s:
            return False
        return any(now - other.answered_at < 2 * idle_s for other in self._members.values())

    def cost_of(self, member: Member, now: float) -> CostModel:
        """What a batch costs a replica. One that has computed next to nothing does not know yet: it
        is taken for one like the others on its kind of device.
        """
        description = member.description
        if description is None or description.batches >= MEASURED or member.measured.known:
            return member.cost(now)
        kind = description.device.partition(":")[0]
        like = [
            other.cost(now)
            for other in self._members.values()
            if other.measured.known
            and other.description is not None
            and other.description.device.partition(":")[0] == kind
        ]
        return usual(like) or member.cost(now)

    def tried(self, member: Member, now: float) -> None:
        """A trial of a suspect replica failed: the pause before the next one is longer."""
        member.conduct = member.conduct.ejected(now, 0.0)

    def peers(self, member: Member) -> Peers:
        """The others, counted."""
        others = [other.state for other in self._members.values() if other is not member]
        ready, ejected = ReplicaState.READY, ReplicaState.EJECTED
        return Peers(len(others), others.count(ready), others.count(ejected))

    def apply(self, member: Member, event: Event, now: float, reason: str = "") -> bool:
        """Move a replica by the table; return whether its state changed."""
        left = member.state
        entered = after(left, event)
        if entered is left:
            return False
        member.conduct = _conduct(member, entered, event, now)
        if entered is ReplicaState.STARTING:
            member.measured = MeasuredCost()  # another process may answer there
        if event is Event.ANSWERED:
            member.silent_since = None
        if entered is ReplicaState.READY or event is Event.REFUSED:
            member.failing_since = None
        elif event in {Event.FAILED, Event.SPARED} and member.failing_since is None:
            member.failing_since = now
        member.state, member.since, member.reason = entered, now, shown(reason, MOST_REASON)
        if left in SERVING or entered in SERVING:
            self._traffic_moves(member, now)
        if entered is ReplicaState.GONE and self._members.get(member.name) is member:
            del self._members[member.name]
        self._tell(member, left)
        return True

    def _traffic_moves(self, member: Member, now: float) -> None:
        """A replica came into traffic or left it."""
        if member.state not in SERVING:
            member.failing_checks.clear()
        served = any(other.state in SERVING for other in self._members.values())
        self._nobody_since = None if served else now

    def count(self, state: ReplicaState) -> int:
        return sum(member.state is state for member in self._members.values())

    def _tell(self, member: Member, left: ReplicaState) -> None:
        for listener in self._listeners:
            listener(member, left)


def _conduct(member: Member, entered: ReplicaState, event: Event, now: float) -> Conduct:
    """What is held against a replica that leaves its state for `entered`."""
    left, conduct = member.state, member.conduct
    ejected = entered is ReplicaState.EJECTED and left is not ReplicaState.SUSPECT
    if ejected or entered is ReplicaState.SUSPECT:
        return conduct.ejected(now, now - member.since if left is ReplicaState.READY else 0.0)
    if entered is ReplicaState.READY and event is Event.VERIFIED:
        return conduct.readmitted()
    return conduct.forgotten() if entered is ReplicaState.STARTING else conduct
