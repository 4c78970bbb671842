"""Whether a replica is well: one look at it, judged.

Pure. Decides which event follows from what a look saw. Refuses to look itself, and to know what
the event leads to (`states.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.states import Event
from embedfleet.vocabulary import ModelIdentity, Precision, ReplicaState
from embedfleet.wire.description import ReplicaDescription
from embedfleet.work import CostModel

MOST_EJECTED = 0.5
"""At most this share of a pool may be ejected for failing. When more fail, the cause is more likely
load or the network than each of them, and sending all work to the few left would fell them too."""

LEAST_BATCHES = 20
"""A replica that computed fewer has no speed to compare: it started just now."""

MOST_SLOWDOWN = 5.0
"""A replica that is slower than the median of its like by more is treated as failing: something
is wrong with it that its answers do not show. Below, balancing by work gives it less."""

EJECTION = Backoff(5.0, 300.0)
"""How long a replica stays ejected: the first time, and at most."""

TYPICAL_BATCH = (128,) * 16
"""The batch for which replicas' speeds are compared."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen when a replica was asked to describe itself."""

    description: ReplicaDescription | None
    """None when it did not answer."""
    trouble: str = ""
    """Why it did not."""
    slowdown: float = 1.0
    """How many times slower than the median of its like it is."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What every replica of a pool must be."""

    identity: ModelIdentity
    precision: Precision


def judge(state: ReplicaState, look: Look, expected: Expected | None) -> tuple[Event, str] | None:
    """The event that a look gives rise to, with its reason; None when nothing happened."""
    if look.description is None:
        if state is ReplicaState.STARTING:
            return None  # loading takes as long as it takes
        return Event.FAILED, look.trouble
    if look.description.draining:
        return Event.DRAIN, "it says that it drains"
    if expected is not None:
        difference = mismatch(expected, look.description)
        if difference:
            return Event.REFUSED, difference
    if state is ReplicaState.STARTING:
        return Event.ANSWERED, "it described itself"
    if look.slowdown > MOST_SLOWDOWN:
        return Event.FAILED, f"it is {look.slowdown:.0f} times slower than its like"
    if state is ReplicaState.SUSPECT:
        return Event.RECOVERED, "it answers again"
    return None


def mismatch(expected: Expected, found: ReplicaDescription) -> str:
    """What makes a replica unfit for its pool; empty when nothing does."""
    identity = expected.identity
    if found.width != identity.width:
        return f"its vectors have {found.width} dimensions, the pool's {identity.width}"
    if found.tokenizer != identity.tokenizer:
        return f"its tokenizer is {found.tokenizer}, the pool's {identity.tokenizer}"
    if identity.revision and found.revision != identity.revision:
        return f"its model revision is {found.revision}, the pool's {identity.revision}"
    if not found.precision.may_join(expected.precision):
        return (
            f"it computes in {found.precision}, below the pool's class {expected.precision}; "
            "start it with a finer dtype or declare a lower pools.precision"
        )
    return ""


def released(state: ReplicaState, ejections: int, stayed_s: float, times: Backoff) -> bool:
    """Whether a replica that gets no traffic should be looked at afresh."""
    if state is ReplicaState.EJECTED:
        return stayed_s >= times.after(ejections)
    return state is ReplicaState.DRAINING and stayed_s >= times.first_s


def may_eject(ejected: int, total: int) -> bool:
    """Whether one more replica of `total` may be ejected for failing; never the only one."""
    return (ejected + 1) <= MOST_EJECTED * total


def slowdown(own: ReplicaDescription, others: Iterable[ReplicaDescription]) -> float:
    """How many times slower than the median of its like a replica is; 1.0 where it has none.

    Its like are those on the same kind of device: a processor beside GPUs is slower and well. A
    replica that has computed little does not know its own speed yet; what it says is a guess.
    """
    if own.batches < LEAST_BATCHES:
        return 1.0
    kind = own.device.partition(":")[0]
    like = [
        CostModel(*other.cost).seconds(TYPICAL_BATCH)
        for other in others
        if other.device.partition(":")[0] == kind and other.batches >= LEAST_BATCHES
    ]
    usual = median(like) if like else 0.0
    return CostModel(*own.cost).seconds(TYPICAL_BATCH) / usual if usual > 0 else 1.0
