"""The table of a pool's replicas: the one thing that data path and control path share.

Decides nothing about health or load: it applies events by the table in `states.py` and tells who
listens. The control path decides who is in it; the data path reads it and reports outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from embedfleet.fleet.health import may_eject
from embedfleet.fleet.states import Event, after
from embedfleet.vocabulary import ReplicaState
from embedfleet.wire.description import ReplicaDescription


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
    ejections: int = 0
    """How often it was ejected without being ready in between."""
    leaving: set[str] = field(default_factory=set)
    """Who lets it go; while anybody does, it is not given another chance."""
    reserve: bool = False
    """Whether it is to be on standby: well, it gets no traffic."""


Listener = Callable[[Member, ReplicaState], None]
"""Called after a change with the member and the state it left."""


class Fleet:
    """The replicas of one pool."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._listeners: list[Listener] = []

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
        member = Member(name, url, ReplicaState.STARTING, now, weight=weight)
        self._members[name] = member
        self._tell(member, ReplicaState.GONE)
        return member

    def apply(self, member: Member, event: Event, now: float, reason: str = "") -> bool:
        """Move a replica by the table; return whether its state changed.

        A failing replica stays suspect, and so the last resort, where too many are ejected already.
        """
        left = member.state
        entered = after(left, event)
        if entered is left:
            return False
        failing = event is Event.FAILED and left is ReplicaState.SUSPECT
        if failing and not may_eject(self.count(ReplicaState.EJECTED), len(self._members)):
            return False
        member.state, member.since, member.reason = entered, now, reason
        if entered is ReplicaState.EJECTED:
            member.ejections += 1
        elif entered is ReplicaState.READY:
            member.ejections = 0
        elif entered is ReplicaState.GONE and self._members.get(member.name) is member:
            del self._members[member.name]
        self._tell(member, left)
        return True

    def count(self, state: ReplicaState) -> int:
        return sum(member.state is state for member in self._members.values())

    def _tell(self, member: Member, left: ReplicaState) -> None:
        for listener in self._listeners:
            listener(member, left)
