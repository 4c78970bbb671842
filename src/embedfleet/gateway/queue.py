"""The one queue of a pool: every text that waits for a replica, of all requests.

Pure: decides the order in which texts leave. Refuses to know replicas, sockets and clocks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
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
    tokens: int = field(init=False)
    urgency: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.encoding)
        self.urgency = urgency(self.arrived, self.tokens, self.deadline)


class TextQueue:
    """Texts by urgency within their lane; lanes share by tokens.

    A heap for each lane: putting and taking cost the logarithm of what waits. A text that is
    discarded stays in its heap until it comes to the top.
    """

    def __init__(self) -> None:
        self._heaps: dict[Lane, list[tuple[float, int, QueuedText]]] = {lane: [] for lane in Lane}
        self._waiting: dict[int, QueuedText] = {}
        self._counts = dict.fromkeys(Lane, 0)
        self._served = dict.fromkeys(Lane, 0.0)
        self._tokens = dict.fromkeys(Lane, 0)
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        lanes = ", ".join(f"{texts} {lane}" for lane, texts in self._counts.items())
        return f"<TextQueue [Texts: {lanes} | Tokens: {self.tokens}]>"

    @property
    def tokens(self) -> int:
        return sum(self._tokens.values())

    def tokens_of(self, lane: Lane) -> int:
        return self._tokens[lane]

    def put(self, text: QueuedText) -> None:
        """Queue a text; one that was here before takes its old place, for it keeps its age."""
        if not self._counts[text.lane]:
            self._wake(text.lane)
        heapq.heappush(self._heaps[text.lane], (text.urgency, next(self._arrivals), text))
        self._waiting[id(text)] = text
        self._counts[text.lane] += 1
        self._tokens[text.lane] += text.tokens

    def peek(self) -> QueuedText | None:
        """The text that leaves next."""
        lane = self._next_lane()
        return None if lane is None else self._top(lane)

    def pop(self) -> QueuedText:
        """Take out the text that leaves next; KeyError when the queue is empty."""
        lane = self._next_lane()
        if lane is None:
            raise KeyError("the queue is empty")
        text = self._top(lane)
        heapq.heappop(self._heaps[lane])
        self._forget(text)
        self._served[lane] += text.tokens / SHARES[lane]
        return text

    def discard(self, text: QueuedText) -> bool:
        """Take out a text that nobody waits for any more; return whether it was still here."""
        if id(text) not in self._waiting:
            return False
        self._forget(text)
        return True

    def _forget(self, text: QueuedText) -> None:
        del self._waiting[id(text)]
        self._counts[text.lane] -= 1
        self._tokens[text.lane] -= text.tokens

    def _top(self, lane: Lane) -> QueuedText:
        """The lane's most urgent text; those discarded meanwhile are dropped on the way."""
        heap = self._heaps[lane]
        while id(heap[0][2]) not in self._waiting:
            heapq.heappop(heap)
        return heap[0][2]

    def _next_lane(self) -> Lane | None:
        waiting = [lane for lane, texts in self._counts.items() if texts]
        return min(waiting, key=self._standing, default=None)

    def _standing(self, lane: Lane) -> float:
        return self._served[lane] - (LEAD if lane is Lane.INTERACTIVE else 0.0)

    def _wake(self, lane: Lane) -> None:
        """A lane that was empty starts level with the others: idle time earns no credit."""
        busy = [self._served[other] for other, texts in self._counts.items() if texts]
        self._served[lane] = max(self._served[lane], min(busy, default=0.0))
