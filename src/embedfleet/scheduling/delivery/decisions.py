"""The delivery rules: what happens to a text after each event, and when a call is late. Pure.

A text that is handed to a replica is leased to it. A text has at most two leases at a time and is
settled by the first answer. `next_step` decides what follows when a lease ends without an answer or
is late; docs/data-path.md draws the states of a text.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from urllib.parse import urlsplit

from embedfleet.fleet.fleet import Member
from embedfleet.scheduling.texts import Text
from embedfleet.vocabulary import (
    CallerError,
    DeadlineError,
    DrainingError,
    EmbedfleetError,
    NoReplicaError,
    ReplicaError,
    ReplicaLostError,
    ReplicaState,
    ReplicaUnreachableError,
    UnfitReplicaError,
    VectorError,
    counted,
)

CRASHES_TO_ISOLATE = 2
"""Texts whose replica was lost so often run apart from others, on a replica that has nothing else.
Texts lost together stay together, and are halved each time their replica is lost again: what
kills replicas is alone after log2(n) further losses, and texts that did no harm are answered."""

HEDGE_FACTOR = 4.0
"""A replica is late when it needs four times what its own cost model predicts for all it has."""

LEAST_QUIET_S = 1.0
"""And at least this long: predictions of milliseconds are noise on a busy machine."""

SHUT_S = 0.2
"""A replica that can't be reached is not tried again for so long after the attempt. Its texts are
not counted as tried, so without a pause they would go to it in a circle."""

ABANDONED_S = 60.0
"""How long a call without waiters may make no progress. Its vectors would still be for the
cache, but a replica that hangs must not hold its window for ever."""

RETRY_SHARE, HEDGE_SHARE = 0.10, 0.05
"""Tries that each answered text earns. Retries and hedges multiply load just when there is too much
of it, so each kind may only be a share of the texts that were answered well."""

RESERVE = 256.0
"""Texts that may be tried again after a quiet time: what a few failed calls hold, so that one bad
replica fails no request. More failures than that are a failure of the pool."""


UNFIT = "it is not set up for this pool; what has to be changed is in the gateway's log"
"""The error for callers where only an operator can help: without keys, addresses and flags of
engines."""

TROUBLES = {
    ReplicaState.GONE: "its process has ended",
    ReplicaState.EJECTED: "its calls failed or took too long",
    ReplicaState.SUSPECT: "its calls failed or took too long",
}
"""The public reason for a replica's state where none is more specific: without addresses and the
replica's own messages."""


class Event(Enum):
    """What may happen to a lease, other than an answer."""

    LOST = "lost"
    """The replica or the connection to it died: one of its texts may have killed it."""
    EJECTED = "ejected"
    """The replica was taken out of traffic, and the gateway broke the call off."""
    FAILED = "failed"
    """The replica answered, but wrongly, or not this text."""
    INVALID = "invalid"
    """It reports that the text has no vector, or gave an invalid one."""
    UNSENDABLE = "unsendable"
    """The text can't be sent to it: other replicas of the pool may be of another kind."""
    EXPIRED = "expired"
    """It reports that the deadline passed."""
    REFUSED = "refused"
    """It accepts nothing new, because it drains or is removed: the text was not tried."""
    UNREACHED = "unreached"
    """No connection to it could be made: the text was not tried either."""
    LATE = "late"
    """It has made no progress for too long; the lease continues."""


UNTRIED = {Event.REFUSED, Event.UNREACHED}
"""Ends by which no replica has failed the text. Only its deadline bounds their number."""


class Step(Enum):
    """What is done with a text."""

    WAIT = "wait"
    HEDGE = "hedge"
    """Queue it for a second replica; the first answer counts."""
    REQUEUE = "requeue"
    ISOLATE = "isolate"
    FAIL = "fail"


def next_step(
    text: Text, event: Event, now: float, *, attempts: int, elsewhere: bool, affordable: bool
) -> Step:
    """What becomes of an open text after an event on one of its leases.

    A lease that ended is off `text.leases`, and the event is in the text's record. `attempts` is
    how many leases may end by their replica's fault, `elsewhere` whether the pool has a replica
    that had no part in this, and `affordable` whether the budget allows one more try.
    """
    if event is Event.LATE:
        once = not text.hedged and text.place is None and text.crashes < CRASHES_TO_ISOLATE
        return Step.HEDGE if once and elsewhere and affordable else Step.WAIT
    if text.leases or text.place is not None:
        return Step.WAIT  # another replica has it, or will
    if now >= text.deadline:
        return Step.FAIL
    if event not in UNTRIED:
        tried_out = text.attempts >= attempts
        unanswerable = event is Event.INVALID and (len(text.invalid) > 1 or not elsewhere)
        unanswerable = unanswerable or (event is Event.UNSENDABLE and not elsewhere)
        if tried_out or unanswerable or (event is Event.FAILED and not affordable):
            return Step.FAIL
    return Step.ISOLATE if text.crashes >= CRASHES_TO_ISOLATE else Step.REQUEUE


def event_of(error: BaseException | None) -> Event:
    """What the error that ended a call says of the texts that it left."""
    if isinstance(error, DrainingError):
        return Event.REFUSED
    if isinstance(error, ReplicaUnreachableError):
        return Event.UNREACHED
    return Event.LOST if isinstance(error, ReplicaLostError) else Event.FAILED


def error_of(text: Text, event: Event, words: str, now: float) -> EmbedfleetError:
    """The error for a text that failed finally."""
    if event is Event.INVALID:
        return VectorError(words)
    if event is Event.UNSENDABLE:
        return CallerError(words)
    if now >= text.deadline:
        return DeadlineError(f"the deadline passed before the text was computed; last: {words}")
    return ReplicaError(f"{counted(text.attempts, 'replica')} failed this text; last: {words}")


def public_words(error: BaseException | None, words: str) -> str:
    """The public words for the error that ended a call; the log has `words`."""
    return UNFIT if isinstance(error, UnfitReplicaError) else words


PAUSES = {
    ReplicaState.DRAINING: "it is overloaded or shutting down",
    ReplicaState.STARTING: "it is starting",
    ReplicaState.VERIFYING: "it is being checked",
}
"""What is said of replicas that are out of traffic for no failure."""


def trouble_of(member: Member) -> str:
    """The public reason why a replica gets no traffic; empty for others."""
    return member.trouble or TROUBLES.get(member.state, "")


def shortage(members: Iterable[Member]) -> str:
    """Why texts of a pool wait longer than they should, for callers; empty where one is ready."""
    found = tuple(members)
    if any(member.state is ReplicaState.READY for member in found):
        return ""
    every = [trouble_of(member) or PAUSES.get(member.state, "") for member in found]
    trouble = next(filter(None, every), "")
    return "no replica is ready" + (f" (one replica: {trouble})" if trouble else "")


def no_replica(pool: str, trouble: str, after_s: float) -> NoReplicaError:
    """The error while a pool has no replica."""
    last = f" (one replica: {trouble})" if trouble else ""
    return NoReplicaError(
        f"no replica of {pool} can be reached{last}, and this text is not in the cache; try again "
        "soon",
        retry_after_s=max(1.0, after_s),
    )


def most_quiet_s(outstanding_s: float) -> float:
    """How long a call may bring nothing, at a replica that has `outstanding_s` seconds of work by
    its own cost model.
    """
    return max(LEAST_QUIET_S, HEDGE_FACTOR * outstanding_s)


def cores_of(url: str, device: str) -> str:
    """What computes at an address: replicas on the processors of one machine share them, and a
    hedge from one to another would only take time from the first.
    """
    host = urlsplit(url).hostname
    if host is None or not device.startswith("cpu"):
        return url
    loopback = host in {"localhost", "::1"} or host.startswith("127.")
    return "localhost" if loopback else host


class RetryBudget:
    """A share of the answered texts, saved up to a reserve; granted text by text."""

    def __init__(self, share: float) -> None:
        """`share` is the number of tries that each answered text earns, for instance 0.1."""
        self._share = share
        self._reserve = self.saved = RESERVE

    def cover(self, texts: int) -> None:
        """A call may hold so many texts: let the reserve be enough for two of these."""
        if 2 * texts > self._reserve:
            self.saved += 2 * texts - self._reserve
            self._reserve = 2.0 * texts

    def earn(self, texts: int) -> None:
        """Texts were answered."""
        self.saved = min(self._reserve, self.saved + texts * self._share)

    @property
    def affords(self) -> bool:
        """Whether there is enough for one text more."""
        return self.saved >= 1.0

    def spend(self) -> None:
        """Pay for one text."""
        self.saved -= 1.0
