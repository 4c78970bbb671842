"""Replica states and the events that move between them: one transition table.

`health.py` decides which event follows from what was observed. `docs/states.md` is drawn from this
table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from embedfleet.vocabulary import ReplicaState


class Event(StrEnum):
    """What can happen to a replica."""

    ANSWERED = "answered"
    """It described itself, and its model is the pool's."""
    VERIFIED = "verified"
    """It reproduced the golden vectors."""
    REFUSED = "refused"
    """Its model, precision or vectors are not the pool's."""
    FAILED = "failed"
    """It failed calls in a row, or was lost, and others carry the work."""
    SPARED = "spared"
    """It failed likewise, and too many others are out: it is kept as the last resort."""
    RECOVERED = "recovered"
    """A call of traffic or a trial brought right answers again."""
    RELEASED = "released"
    """Its ejection has lasted long enough."""
    DRAIN = "drain"
    """It reported, or was ordered, that it stops."""
    RESERVED = "reserved"
    """It is kept loaded, out of traffic, and has nothing left to do."""
    WOKEN = "woken"
    """It is wanted in traffic again."""
    LOST = "lost"
    """Its process ended or its endpoint was taken away."""


S, E = ReplicaState, Event

TRANSITIONS: Mapping[ReplicaState, Mapping[Event, ReplicaState]] = {
    S.STARTING: {E.ANSWERED: S.VERIFYING, E.REFUSED: S.EJECTED, E.LOST: S.GONE},
    S.VERIFYING: {
        E.VERIFIED: S.READY,
        E.RESERVED: S.STANDBY,
        E.REFUSED: S.EJECTED,
        E.FAILED: S.EJECTED,
        E.DRAIN: S.DRAINING,
        E.LOST: S.GONE,
    },
    S.READY: {
        E.FAILED: S.EJECTED,
        E.SPARED: S.SUSPECT,
        E.REFUSED: S.EJECTED,
        E.DRAIN: S.DRAINING,
        E.LOST: S.GONE,
    },
    S.SUSPECT: {
        E.RECOVERED: S.READY,
        E.FAILED: S.EJECTED,
        E.REFUSED: S.EJECTED,
        E.DRAIN: S.DRAINING,
        E.LOST: S.GONE,
    },
    S.EJECTED: {E.RELEASED: S.STARTING, E.DRAIN: S.DRAINING, E.LOST: S.GONE},
    S.DRAINING: {E.RELEASED: S.STARTING, E.RESERVED: S.STANDBY, E.LOST: S.GONE},
    S.STANDBY: {
        E.WOKEN: S.VERIFYING,
        E.FAILED: S.EJECTED,
        E.REFUSED: S.EJECTED,
        E.DRAIN: S.DRAINING,
        E.LOST: S.GONE,
    },
    S.GONE: {},
}
"""An event that a state does not list changes nothing there. A released replica starts over, for
what answers at its address may be another process with another model by then."""


def after(state: ReplicaState, event: Event) -> ReplicaState:
    """The state after an event."""
    return TRANSITIONS[state].get(event, state)
