"""One text that has to be computed, the requests that wait for it, and what computes it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, MutableSequence, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from embedfleet.scheduling.urgency import urgency
from embedfleet.vocabulary import EmbedfleetError, Encoding, Lane, ReplicaError, Vector, Vectors


class Caller(msgspec.Struct, frozen=True):
    """What matters of who asks, beside the texts."""

    lane: Lane
    deadline: float
    """When the answer is of no use any more, monotonic seconds."""
    address: str = ""
    key: str = ""
    """The id of the caller's key; empty where none is required."""

    def joined_by(self, other: Caller) -> Caller:
        """Both, as one: who waits longer, in the more urgent lane."""
        lane = other.lane if other.lane is Lane.INTERACTIVE else self.lane
        deadline = max(self.deadline, other.deadline)
        return msgspec.structs.replace(self, lane=lane, deadline=deadline)


class Waiting:
    """What one request waits for: so many texts, each with its place.

    Complete when all are there; the first text that fails fails the request, unless each is for
    itself.
    """

    def __init__(self, rows: MutableSequence[Any] | Vectors, *, by_item: bool = False) -> None:
        """`rows` has a place for what comes of each text, and is filled in any order. With
        `by_item` the error of a text that replicas fail comes in its place.
        """
        self._by_item = by_item
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rows = rows
        self.texts: list[Text] = []
        """Those that it waits for; some may be there already."""
        self.queue_s = self.compute_s = 0.0
        """Longest wait of one of its texts, and longest computation of a batch with one."""
        self._missing = len(rows)

    def take(self, place: int, row: Any, queue_s: float = 0.0, compute_s: float = 0.0) -> None:
        """One of the texts is there."""
        self.rows[place] = row
        self.queue_s = max(self.queue_s, queue_s)
        self.compute_s = max(self.compute_s, compute_s)
        self._missing -= 1
        if not self._missing and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, place: int, error: EmbedfleetError) -> None:
        """One of the texts has no vector."""
        if self._by_item and isinstance(error, ReplicaError):
            self.take(place, error)
        elif not self.finished.done():
            self.finished.set_exception(error)

    def leave(self) -> list[Text]:
        """Stop waiting; return the texts that no other request awaits."""
        if not self.finished.cancel() and not self.finished.cancelled():
            self.finished.exception()  # or asyncio logs that the exception was never retrieved
        texts, self.texts = self.texts, []
        return [text for text in texts if text.waiting and text.abandoned_by(self)]


class Lease(Protocol):
    """A call that has a text and may still answer it, as the delivery keeps it."""

    outrun: bool
    """Whether another lease answered one of its texts first."""

    @property
    def cores(self) -> str:
        """What computes it (`fleet.balancing.Load.cores`)."""
        ...

    @property
    def handed_s(self) -> float:
        """When it was sent to a replica, monotonic seconds."""
        ...

    def ids(self, texts: Collection[Text]) -> list[int]:
        """What these texts are called in the call."""
        ...


class Place(Protocol):
    """Where a text waits in a queue."""

    def take(self) -> None:
        """Take out the first text."""
        ...

    def forget(self, text: Text) -> None:
        """Take out a text that may be anywhere in it."""
        ...


NOWHERE: frozenset[str] = frozenset()


class Text:
    """A text on its way to a vector: who waits for it, where it is, and what has happened to it.

    A request makes it and submits it to a backend, which settles it once: with a vector or with an
    error.
    """

    __slots__ = (
        "arrived",
        "attempts",
        "client",
        "crashes",
        "deadline",
        "encoding",
        "extended",
        "failed",
        "hedged",
        "invalid",
        "lane",
        "leases",
        "open",
        "place",
        "settled",
        "tokens",
        "trace",
        "urgency",
        "waiting",
        "withdrawn",
    )

    lane: Lane
    deadline: float
    """Monotonic seconds."""
    arrived: float
    """When it was submitted, monotonic seconds."""
    urgency: float
    client: str
    """Address of the client that sent it, for balancing by client."""
    trace: Any
    """The span of its request, where that is recorded (`tracing.OpenSpan`)."""
    place: Place | None
    """Where it waits in the queue."""
    leases: tuple[Lease, ...]
    """The calls that have it and may still answer it."""
    attempts: int
    """Leases that ended by the fault of their replica."""
    crashes: int
    """How many replicas were lost while they had it."""
    failed: frozenset[str]
    """Replicas that failed it."""
    invalid: frozenset[str]
    """Those of them that said that it has no vector."""
    hedged: bool
    """It was given to a second replica because the first was late; once is enough."""
    extended: bool
    """Its deadline was extended after it was sent to a replica."""
    withdrawn: bool
    """It is no longer awaited; a vector that still arrives goes to the cache."""
    settled: bool
    """What became of it is known."""

    def __init__(self, encoding: Encoding, waiting: Waiting | None = None, place: int = 0) -> None:
        """`place` is the row of `waiting` that its vector goes to."""
        self.encoding = encoding
        self.tokens = len(encoding)
        self.waiting = [] if waiting is None else [(waiting, place)]
        """The requests that wait for it, each with its row; empty once it is settled."""
        self.open = False
        """Submitted, and neither withdrawn nor settled."""

    def submitted(
        self, lane: Lane, deadline: float, arrived: float, client: str = "", trace: Any = None
    ) -> None:
        """It is submitted, also for another time: what happened to it before does not count."""
        self.lane, self.deadline, self.arrived = lane, deadline, arrived
        self.urgency = urgency(arrived, self.tokens, deadline)
        self.client, self.trace = client, trace
        self.place = None
        self.leases = ()
        self.attempts = self.crashes = 0
        self.failed = self.invalid = NOWHERE
        self.open = True
        self.hedged = self.extended = self.withdrawn = self.settled = False

    def answer(self, vector: Vector, queue_s: float, compute_s: float, source: str) -> None:
        """Its vector is there; `source` names the replica that computed it.

        Also without waiters: a batch that has begun is finished. The vector is a view of
        memory that is the text's alone or immutable.
        """
        del source
        self._give(vector, queue_s, compute_s)

    def fail(self, error: EmbedfleetError) -> None:
        """It has no vector."""
        waiting, self.waiting = self.waiting, []
        for each, place in waiting:
            each.fail(place, error)

    def abandoned_by(self, waiting: Waiting) -> bool:
        """Remove a waiting request; return whether it was the last one."""
        before = len(self.waiting)
        self.waiting = [each for each in self.waiting if each[0] is not waiting]
        return bool(before) and not self.waiting

    def _give(self, row: Any, queue_s: float, compute_s: float) -> None:
        waiting, self.waiting = self.waiting, []
        for each, place in waiting:
            each.take(place, row, queue_s, compute_s)


class Backend(Protocol):
    """Computes vectors, text by text."""

    def admit(self, texts: int, tokens: int, caller: Caller) -> None:
        """Return if so much may be submitted at once; OverloadedError or NoReplicaError if not."""
        ...

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        """Have texts computed that were admitted; each is told of its vector or its error, later.
        Raises the error of all of them where none is taken.
        """
        ...

    def join(self, text: Text, caller: Caller) -> bool:
        """One more caller waits for a text that was submitted: it has the later of both deadlines
        and the more urgent lane. False where it is too late for that lane.
        """
        ...

    def withdraw(self, texts: Sequence[Text]) -> None:
        """Withdraw texts; one whose batch has begun still gets its vector."""
        ...

    def shortage(self) -> str:
        """Why texts wait for longer than their callers, in words for these; empty where nothing is
        known.
        """
        ...


async def compute(
    backend: Backend,
    encodings: Sequence[Encoding],
    caller: Caller,
    width: int,
    *,
    by_item: bool = False,
) -> Waiting:
    """Vectors of `encodings`, not shared: `rows` is [texts, width], or a list of one; with
    `by_item` a list, in which errors may be.

    Raises what the backend does for the first text that fails. Cancelling forgets the work.
    """
    listed = by_item or len(encodings) == 1
    rows = [None] * len(encodings) if listed else np.empty((len(encodings), width), np.float32)
    waiting = Waiting(rows, by_item=by_item)
    texts = [Text(encoding, waiting, place) for place, encoding in enumerate(encodings)]
    waiting.texts += texts
    backend.submit(texts, caller)
    try:
        await waiting.finished
    finally:
        if unwanted := waiting.leave():
            backend.withdraw(unwanted)
    return waiting
