"""The one queue of a pool: every text that waits for a replica, of all requests.

Pure: decides the order in which texts leave. Refuses to know replicas, sockets and clocks.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from embedfleet.vocabulary import EmbedfleetError, Encoding, Lane, Vector

SHARES = {Lane.INTERACTIVE: 0.9, Lane.BULK: 0.1}
"""How tokens are divided while both lanes wait. Bulk work keeps a tenth, so that it always moves;
a lane that has nothing waiting leaves its share to the other."""


class Claimant(Protocol):
    """Who waits for texts: it gets exactly one call for each."""

    def succeeded(self, index: int, vector: Vector) -> None: ...

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
    attempts: int = 0
    """How often it was handed to a replica."""
    abandoned: bool = False
    """Nobody waits for it any more."""
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = len(self.encoding)


class TextQueue:
    """Texts in order of arrival within their lane; lanes share by tokens."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[int, QueuedText]] = {
            lane: OrderedDict() for lane in Lane
        }
        self._served = dict.fromkeys(Lane, 0.0)
        self._tokens = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __repr__(self) -> str:
        lanes = ", ".join(f"{len(texts)} {lane}" for lane, texts in self._lanes.items())
        return f"<TextQueue [Texts: {lanes} | Tokens: {self._tokens}]>"

    @property
    def tokens(self) -> int:
        return self._tokens

    def put(self, text: QueuedText) -> None:
        """Queue a text at the end of its lane."""
        self._wake(text.lane)
        self._lanes[text.lane][id(text)] = text
        self._tokens += text.tokens

    def put_back(self, text: QueuedText) -> None:
        """Queue a text again, in front: it has waited its turn before."""
        self._wake(text.lane)
        lane = self._lanes[text.lane]
        lane[id(text)] = text
        lane.move_to_end(id(text), last=False)
        self._tokens += text.tokens
        self._served[text.lane] -= text.tokens / SHARES[text.lane]

    def peek(self) -> QueuedText | None:
        """The text that leaves next."""
        lane = self._next_lane()
        return None if lane is None else next(iter(self._lanes[lane].values()))

    def pop(self) -> QueuedText:
        """Take out the text that leaves next; KeyError when the queue is empty."""
        lane = self._next_lane()
        if lane is None:
            raise KeyError("the queue is empty")
        _, text = self._lanes[lane].popitem(last=False)
        self._tokens -= text.tokens
        self._served[lane] += text.tokens / SHARES[lane]
        return text

    def discard(self, text: QueuedText) -> bool:
        """Take out a text that nobody waits for any more; return whether it was still here."""
        if self._lanes[text.lane].pop(id(text), None) is None:
            return False
        self._tokens -= text.tokens
        return True

    def _next_lane(self) -> Lane | None:
        waiting = [lane for lane, texts in self._lanes.items() if texts]
        return min(waiting, key=self._served.__getitem__, default=None)

    def _wake(self, lane: Lane) -> None:
        """A lane that was empty starts level with the others: idle time earns no credit."""
        if not self._lanes[lane]:
            busy = [self._served[other] for other, texts in self._lanes.items() if texts]
            self._served[lane] = max(self._served[lane], min(busy, default=0.0))
