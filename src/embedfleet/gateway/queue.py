"""The one queue of a pool: every text that waits for a replica, of all requests.

Pure: decides the order in which texts leave. Refuses to know replicas, sockets and clocks.
"""

from __future__ import annotations

import heapq
from bisect import insort_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from embedfleet.telemetry.tracing import OpenSpan
from embedfleet.urgency import urgency
from embedfleet.vocabulary import EmbedfleetError, Encoding, Lane, Vector

SHARES = {Lane.INTERACTIVE: 0.9, Lane.BULK: 0.1}
"""How tokens are divided while both lanes wait. Bulk work keeps a tenth, so that it always moves;
a lane that has nothing waiting leaves its share to the other."""

LEAD = 1024 / SHARES[Lane.INTERACTIVE]
"""Interactive texts go first until they are this far ahead of their share: some fifty questions.
Else a bulk text that is next, and waits for room that a question does not need, holds them up."""


SPAN_S = 1 / 64
"""Texts whose urgencies are this close are put in order together."""


class Claimant(Protocol):
    """Who waits for texts: it gets exactly one call for each."""

    def succeeded(self, index: int, vector: Vector, queue_s: float, compute_s: float) -> None:
        """`queue_s` and `compute_s`: how long the text waited, and its batch computed."""
        ...

    def failed(self, index: int, error: EmbedfleetError) -> None: ...


@dataclass(slots=True, eq=False)
class QueuedText:
    """One text on its way to a vector."""

    encoding: Encoding
    lane: Lane
    deadline: float
    """Monotonic seconds."""
    arrived: float
    claimant: Claimant
    index: int
    """Which of the claimant's texts it is."""
    client: str = ""
    """Address of the client that sent it, for balancing by client."""
    attempts: int = 0
    """How often it was handed to a replica."""
    trace: OpenSpan | None = None
    """The span of its request, where that is recorded."""
    crashes: int = 0
    """How many replicas were lost while they had it."""
    avoid: frozenset[str] = frozenset()
    """Replicas that failed it or were too slow: it goes to another one while there is one."""
    closed: bool = False
    """It was answered, or nobody waits for it any more."""
    abandoned: bool = False
    """Nobody waits for it any more; a vector that comes all the same is for the cache."""
    settled: bool = False
    """Its claimant was told what became of it."""
    queued: bool = False
    """It is in a queue."""
    tokens: int = field(init=False)
    urgency: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.encoding)
        self.urgency = urgency(self.arrived, self.tokens, self.deadline)


_urgency = attrgetter("urgency")


def _lateness(text: QueuedText) -> float:
    return -text.urgency


class _Texts:
    """The texts of one lane by urgency: a calendar of short spans of time.

    The texts of a span are only put in order when it is the first one. So a text costs the same
    whether a hundred wait or a million, where a heap compares as many texts as it is deep, most of
    them far apart in memory. A text that is discarded stays until it is the first.
    """

    __slots__ = ("_days", "_order", "_ordered", "served", "share", "texts", "tokens")

    def __init__(self, share: float) -> None:
        self.share = share
        self.texts = 0
        """How many wait."""
        self.tokens = 0
        """Theirs."""
        self.served = 0.0
        """Tokens that left, for its share."""
        self._days: dict[int, list[QueuedText]] = {}
        """By the number of a span; once in order, the first is at the end."""
        self._order: list[int] = []
        """A heap of the spans' numbers."""
        self._ordered: set[int] = set()
        """Spans whose texts are in order."""

    def put(self, text: QueuedText) -> None:
        number = int(text.urgency / SPAN_S)
        day = self._days.get(number)
        if day is None:
            self._days[number] = [text]
            heapq.heappush(self._order, number)
        elif number in self._ordered:
            insort_left(day, text, key=_lateness)
        else:
            day.append(text)
        text.queued = True
        self.texts += 1
        self.tokens += text.tokens

    def first(self) -> QueuedText:
        """The most urgent text, of equal ones the one that came first; there must be one."""
        return self._first_day()[-1]

    def take(self) -> QueuedText:
        """Take out the most urgent text; there must be one."""
        text = self._first_day().pop()
        self.forget(text)
        self.served += text.tokens / self.share
        return text

    def forget(self, text: QueuedText) -> None:
        text.queued = False
        self.texts -= 1
        self.tokens -= text.tokens

    def _first_day(self) -> list[QueuedText]:
        """The first span with a text that waits, in order, that text at its end."""
        while True:
            number = self._order[0]
            day = self._days[number]
            if number not in self._ordered:
                day.sort(key=_urgency)
                day.reverse()
                self._ordered.add(number)
            while day and not day[-1].queued:
                day.pop()
            if day:
                return day
            heapq.heappop(self._order)
            self._ordered.discard(number)
            del self._days[number]


class TextQueue:
    """Texts by urgency within their lane; lanes share by tokens."""

    def __init__(self) -> None:
        self._interactive = _Texts(SHARES[Lane.INTERACTIVE])
        self._bulk = _Texts(SHARES[Lane.BULK])

    def __len__(self) -> int:
        return self._interactive.texts + self._bulk.texts

    def __repr__(self) -> str:
        lanes = ", ".join(f"{self._of(lane).texts} {lane}" for lane in Lane)
        return f"<TextQueue [Texts: {lanes} | Tokens: {self.tokens}]>"

    @property
    def tokens(self) -> int:
        return self._interactive.tokens + self._bulk.tokens

    def tokens_of(self, lane: Lane) -> int:
        return self._of(lane).tokens

    def put(self, text: QueuedText) -> None:
        """Queue a text; one that was here before takes its old place, for it keeps its age."""
        lane = self._of(text.lane)
        if not lane.texts:
            self._wake(lane)
        lane.put(text)

    def peek(self) -> QueuedText | None:
        """The text that leaves next."""
        lane = self._next()
        return None if lane is None else lane.first()

    def pop(self) -> QueuedText:
        """Take out the text that leaves next; KeyError when the queue is empty."""
        lane = self._next()
        if lane is None:
            raise KeyError("the queue is empty")
        return lane.take()

    def discard(self, text: QueuedText) -> bool:
        """Take out a text that nobody waits for any more; return whether it was still here."""
        if not text.queued:
            return False
        self._of(text.lane).forget(text)
        return True

    def _of(self, lane: Lane) -> _Texts:
        return self._interactive if lane is Lane.INTERACTIVE else self._bulk

    def _next(self) -> _Texts | None:
        """The lane whose turn it is."""
        interactive, bulk = self._interactive, self._bulk
        if not bulk.texts:
            return interactive if interactive.texts else None
        if interactive.texts and interactive.served - LEAD <= bulk.served:
            return interactive
        return bulk

    def _wake(self, lane: _Texts) -> None:
        """A lane that was empty starts level with the other: idle time earns no credit."""
        other = self._bulk if lane is self._interactive else self._interactive
        lane.served = max(lane.served, other.served if other.texts else 0.0)
