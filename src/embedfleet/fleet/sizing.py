"""Plans which replicas to start, promote, demote or stop to reach the wanted numbers. Pure.

The replica that will serve soonest is promoted first; the one whose loss costs least is stopped
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from embedfleet.vocabulary import ReplicaState

S = ReplicaState


class SlotRole(StrEnum):
    """What a replica is there for."""

    TRAFFIC = "traffic"
    STANDBY = "standby"
    """Loaded, out of traffic, until it is woken."""
    LEAVING = "leaving"
    """It finishes what it has and ends."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One replica at this moment."""

    number: int
    """Unique among its like; lower ones are kept longer."""
    role: SlotRole
    state: ReplicaState
    """`gone` while there is no process: it is being started, or about to be."""
    outstanding: int = 0
    """Tokens that it still has to answer."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done."""

    roles: tuple[tuple[int, SlotRole], ...] = ()
    """Replicas that get another part, by number."""
    starts: tuple[SlotRole, ...] = ()
    """Replicas to start, by the part they will have."""


SOONEST = (S.READY, S.SUSPECT, S.DRAINING, S.STANDBY, S.VERIFYING, S.STARTING, S.EJECTED, S.GONE)
"""In whose order replicas outside traffic would serve: who drains is warm, and so first."""
LEAST_MISSED = (S.GONE, S.STARTING, S.EJECTED, S.VERIFYING, S.SUSPECT, S.READY)
"""In whose order replicas in traffic go: first those that do not serve anyway."""
UNFIT = {S.EJECTED, S.DRAINING}
"""Who is not well, or ends by itself, is no reserve."""


def changes(replicas: Sequence[SlotStatus], planned: int, standby: int) -> Changes:
    """What leads to `planned` replicas in traffic, or on their way, and `standby` beside them."""
    roles: dict[int, SlotRole] = {}
    starts: list[SlotRole] = []
    traffic = [each for each in replicas if each.role is SlotRole.TRAFFIC]
    others = sorted((each for each in replicas if each.role is not SlotRole.TRAFFIC), key=_soonest)
    reserve = sum(each.role is SlotRole.STANDBY for each in others)

    for _ in range(planned - len(traffic)):
        if others:
            woken = others.pop(0)
            reserve -= woken.role is SlotRole.STANDBY
            roles[woken.number] = SlotRole.TRAFFIC
        else:
            starts.append(SlotRole.TRAFFIC)
    for victim in sorted(traffic, key=_least_missed)[: max(0, len(traffic) - planned)]:
        kept = reserve < standby and victim.state not in UNFIT
        reserve += kept
        roles[victim.number] = SlotRole.STANDBY if kept else SlotRole.LEAVING

    spare = [each.number for each in reversed(others) if each.role is SlotRole.STANDBY]
    roles |= dict.fromkeys(spare[: max(0, reserve - standby)], SlotRole.LEAVING)
    for _ in range(standby - reserve):
        leaving = next((each for each in others if each.role is SlotRole.LEAVING), None)
        if leaving is None:
            starts.append(SlotRole.STANDBY)
        else:
            others.remove(leaving)
            roles[leaving.number] = SlotRole.STANDBY
    return Changes(tuple(roles.items()), tuple(starts))


def _soonest(replica: SlotStatus) -> tuple[int, int]:
    return SOONEST.index(replica.state), replica.number


def _least_missed(replica: SlotStatus) -> tuple[int, int, int]:
    known = replica.state in LEAST_MISSED
    rank = LEAST_MISSED.index(replica.state) if known else 0
    return rank, replica.outstanding, -replica.number
