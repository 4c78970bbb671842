"""Outlier detection: judges replicas by the results of their calls, probes and trials. Pure.

Traffic decides. Consecutive failed calls eject a replica, as does the loss of its connection or
process. It is readmitted by a successful call or a trial (the golden vectors), never by a probe
alone: a process may describe itself correctly while its engine hangs. (After Envoy's outlier
detection and failure accrual in Twitter's Finagle.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from statistics import median

from embedfleet.fleet.backoff import Backoff
from embedfleet.fleet.measured import TYPICAL_BATCH
from embedfleet.fleet.states import Event
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import ModelIdentity, Precision, ReplicaState
from embedfleet.work import MEASURED, CostModel

FAILURES = 3
"""So many in a row eject: one may be the text's or the network's. (Envoy's default is 5, of calls
that carry one request each; a call here carries texts of many.)"""

MOST_EJECTED = 0.5
"""At most this share of a pool may be ejected for failing. When more fail, the cause is more likely
load or the network than each of them, and sending all work to the few left would fell them too."""

LEAST_BATCHES = 20
"""A replica that computed fewer has no speed to compare: it started just now."""

MOST_SLOWDOWN = 5.0
"""A replica that is slower than the median of its like by more is treated as failing: something
is wrong with it that its answers do not show. Below, balancing by work gives it less."""

SLOW_PROBES = 5
"""Consecutive probes that must find it slow: on a busy machine any replica is slow for a moment."""

EJECTION = Backoff(5.0, 40.0)
"""How long a replica stays ejected: the first time, and at most. One that is well again is back
within a minute, however long it was bad; one that stays bad fails a call in that time, whose texts
others get. (Envoy's most is 300 s, but there a passed health check ends an ejection.)"""

MOST_REFUSED_S = 30.0
"""The longest that a replica that refuses work is left alone, whatever its `Retry-After`; the next
call shows whether it still refuses."""

FORGIVEN_S = 10.0
"""So much time ready takes one ejection off the count that the next one's length grows with, as an
interval of Envoy's outlier detection does."""

MOST_COUNTED = 1 + math.ceil(math.log2(EJECTION.most_s / EJECTION.first_s))
"""Ejections beyond make the next one no longer, and are not counted: a minute or so forgives all,
however long it was bad before."""

HUNG_BATCHES = 3.0
"""A batch that takes so many times what was predicted, and longer than HUNG_LEAST_S, does not end:
its replica gets no traffic. (It ends itself later: scheduling/batching/batch_times.py.)"""
HUNG_LEAST_S = 5.0

IDLE_S = 1.0
"""Who has answered nothing for so long, while others of its pool have, is touched: it has one short
text to compute, because nothing else would show that it hangs before it gets its next text."""

TOUCH_S = 2.5
"""The least that this may take."""

MOST_AGAIN_S = 15.0
"""A trial that is not answered is repeated beside the first after so long at most: an engine that
hung and goes on again need not answer what it was asked before."""

UNPROVEN_REPEATS = 4
"""How often in its time a trial is repeated while its duration is unknown."""

WRONG_GLANCES = 64
"""A replica that gave wrong vectors amid traffic is readmitted after so many glances in a row that
found right ones: one that errs in one call of twenty passes a single trial nearly always, and these
in one case of 27."""

DOUBTED_S = 3.0
"""The least that a trial may take after a failed call."""

TRIAL_BATCHES = 4
"""Batches that a trial waits for and is."""

LEAST_TYPICAL_S, MOST_TYPICAL_S = 1e-5, 86_400.0
"""Bounds of what TYPICAL_BATCH may be claimed to take: 200 million tokens a second, a day."""

SERVING = frozenset({ReplicaState.READY, ReplicaState.SUSPECT})
"""In these a replica may have calls."""


class Sign(Enum):
    """What was observed of a replica."""

    SUCCEEDED = "succeeded"
    """A call of traffic brought right answers."""
    FAILED = "failed"
    """A call or a golden check failed: an error, nonsense, a time-out, a hedge that another won."""
    LOST = "lost"
    """Its process, its connections or its engine are gone; no more proof is needed."""
    ANSWERED = "answered"
    """It answered a probe."""
    MISSED = "missed"
    """It did not."""
    PROVEN = "proven"
    """It passed its trial: the golden vectors, or what its pool has instead."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """What is remembered of how a replica behaved."""

    failures: int = 0
    """Calls in a row that failed."""
    misses: int = 0
    """Looks in a row that it did not answer."""
    probation: bool = False
    """It came back after an ejection and has not brought an answer since: the next failure ejects
    it (the half-open state of a circuit breaker)."""
    ejections: int = 0
    """Ejections, less those that decayed while it was ready."""
    ejected_at: float = 0.0
    """When the last of these was, monotonic seconds."""
    wrong: bool = False
    """It gave wrong vectors amid traffic, and has not been readmitted since."""
    back_at: float = -math.inf
    """Until when it asked to be left alone, monotonic seconds."""

    @property
    def outlier(self) -> bool:
        """Whether it should get no traffic."""
        return self.failures + self.misses >= (1 if self.probation else FAILURES)

    def ejected(self, now: float, ready_s: float) -> Conduct:
        """After an ejection, `ready_s` seconds after it had become ready (0 where it was not)."""
        before = max(0, self.ejections - int(ready_s / FORGIVEN_S))
        return replace(self, ejections=min(before + 1, MOST_COUNTED), ejected_at=now)

    def refused(self, now: float, wait_s: float) -> Conduct:
        """After it has refused work, and asked to be left alone for `wait_s`."""
        return replace(self, back_at=now + min(wait_s, MOST_REFUSED_S))

    def readmitted(self) -> Conduct:
        """When it gets traffic."""
        return replace(self, failures=0, misses=0, wrong=False, probation=self.ejections > 0)

    def forgotten(self) -> Conduct:
        """When it starts over: what it did before counts for the length of ejections, and for what
        it has to prove.
        """
        return replace(self, failures=0, misses=0, probation=False)


@dataclass(frozen=True, slots=True)
class Peers:
    """The other replicas of a pool."""

    total: int = 0
    ready: int = 0
    ejected: int = 0

    @property
    def can_spare_one(self) -> bool:
        """Whether one more may be ejected for failing: another one serves, and it is not the
        greater part of the pool that fails.
        """
        return self.ready > 0 and self.ejected + 1 <= MOST_EJECTED * (self.total + 1)


def judge(
    state: ReplicaState, conduct: Conduct, sign: Sign, peers: Peers
) -> tuple[Conduct, Event | None]:
    """What is remembered after a sign, and the event that follows from it, if any does."""
    if sign is Sign.SUCCEEDED:
        cleared = replace(conduct, failures=0, misses=0, probation=False)
        if state is ReplicaState.SUSPECT:  # its answers acquit it: that was no ejection
            return replace(cleared, ejections=max(0, conduct.ejections - 1)), Event.RECOVERED
        return cleared, None
    if sign is Sign.PROVEN:
        if state is ReplicaState.SUSPECT:
            return conduct.readmitted(), Event.RECOVERED
        # A passed trial does not clear failures of traffic: they stay counted.
        return conduct, Event.VERIFIED if state is ReplicaState.VERIFYING else None
    if sign is Sign.ANSWERED:
        return (replace(conduct, misses=0) if conduct.misses else conduct), None
    if sign is Sign.MISSED:
        conduct = replace(conduct, misses=conduct.misses + 1)
    else:
        more = FAILURES if sign is Sign.LOST else 1
        conduct = replace(conduct, failures=conduct.failures + more)
    return conduct, _sentence(state, conduct, sign, peers)


def _sentence(state: ReplicaState, conduct: Conduct, sign: Sign, peers: Peers) -> Event | None:
    if state is ReplicaState.VERIFYING and sign is not Sign.MISSED:
        return Event.FAILED  # what it was asked for is the trial
    if not conduct.outlier:
        return None
    if state not in SERVING or peers.can_spare_one:
        return Event.FAILED
    return Event.SPARED if state is ReplicaState.READY else None


def released(
    state: ReplicaState,
    since: float,
    conduct: Conduct,
    now: float,
    *,
    times: Backoff = EJECTION,
    wanted: bool = False,
) -> bool:
    """Whether it is time for another chance: a trial, for one that is ejected or suspect; a probe
    of what answers now at the address of one that drained.

    `wanted` where others do not carry the work: the first pause is enough then.
    """
    if state is ReplicaState.DRAINING:
        return now - since >= times.first_s and now >= conduct.back_at
    if state not in {ReplicaState.EJECTED, ReplicaState.SUSPECT}:
        return False
    return now - conduct.ejected_at >= times.after(1 if wanted else conduct.ejections)


@dataclass(frozen=True, slots=True)
class Expected:
    """What every replica of a pool must be."""

    identity: ModelIdentity
    precision: Precision


def mismatch(expected: Expected, found: ReplicaDescription) -> str:
    """What makes a replica unfit for its pool; empty when nothing does."""
    identity = expected.identity
    if found.task != identity.task:
        return f"its model's task is {found.task}, the pool's {identity.task} (pools.task)"
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


def implausible(found: ReplicaDescription) -> str:
    """What is wrong with the cost that a replica claims; empty where it may be true.

    Balancing believes it, so one that claims to be infinitely fast would be given everything.
    """
    seconds = CostModel(*found.cost).seconds(TYPICAL_BATCH)
    if LEAST_TYPICAL_S <= seconds <= MOST_TYPICAL_S:
        return ""
    return (
        f"it claims to compute {sum(TYPICAL_BATCH):,} tokens in {seconds:.3g} s, which no engine "
        "does"
    )


def hung(found: ReplicaDescription) -> str:
    """What is to be said of a replica whose oldest batch does not end; empty where none is."""
    age_s, predicted_s = found.oldest_batch_s, found.oldest_batch_predicted_s
    if age_s is None or predicted_s is None:
        return ""
    if age_s <= max(HUNG_LEAST_S, HUNG_BATCHES * predicted_s):
        return ""
    return f"its oldest batch has been computing for {age_s:.0f} s; predicted: {predicted_s:.2g} s"


def trial_timeout_s(found: ReplicaDescription | None, most_s: float, *, doubtful: bool) -> float:
    """How long a trial may take: a few batches as predicted, once the replica knows its speed.

    Its window may be full, of two or three batches, and the golden vectors are one or two more.
    """
    if found is None or found.batches < LEAST_BATCHES:
        return most_s
    lengths = [512] * max(1, -(-found.batch_tokens // 512))
    predicted_s = TRIAL_BATCHES * CostModel(*found.cost).seconds(lengths)
    return min(most_s, max(DOUBTED_S if doubtful else HUNG_LEAST_S, HUNG_BATCHES * predicted_s))


def trial_repeats(proven_s: float | None, most_s: float) -> Backoff:
    """After which pauses a trial that is not answered is repeated, `proven_s` after what the last
    one took that was passed; None where none was since the replica was silent.
    """
    if proven_s is None:
        return Backoff(most_s / UNPROVEN_REPEATS, most_s / UNPROVEN_REPEATS)
    first_s = max(HUNG_LEAST_S, TRIAL_BATCHES * proven_s)
    return Backoff(first_s, max(first_s, MOST_AGAIN_S))


def touch_timeout_s(found: ReplicaDescription, most_s: float) -> float:
    """How long an idle replica may take for one short text: it may wait for one batch of another
    gateway.
    """
    if found.batches < MEASURED:
        return most_s
    batch_s = CostModel(*found.cost).seconds([512] * max(1, -(-found.batch_tokens // 512)))
    return min(most_s, max(TOUCH_S, HUNG_BATCHES * batch_s))


def slowdown(own: ReplicaDescription, others: Iterable[ReplicaDescription]) -> float:
    """How many times slower than the median of its like, itself included, a replica is.

    1.0 where there are fewer than two others: of two that differ nobody can say which one is
    wrong, and it may be a claim. Its like are those on the same kind of device: a processor beside
    GPUs is slower and well. A replica that has computed little does not know its own speed yet.
    """
    if own.batches < LEAST_BATCHES:
        return 1.0
    kind = own.device.partition(":")[0]
    like = [
        CostModel(*other.cost).seconds(TYPICAL_BATCH)
        for other in others
        if other.device.partition(":")[0] == kind and other.batches >= LEAST_BATCHES
    ]
    seconds = CostModel(*own.cost).seconds(TYPICAL_BATCH)
    usual = median([*like, seconds])
    return seconds / usual if len(like) > 1 and usual > 0 else 1.0
