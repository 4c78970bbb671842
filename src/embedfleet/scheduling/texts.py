"""One text that has to be computed, the requests that wait for it, and what computes it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from embedfleet.vocabulary import EmbedfleetError, Encoding, Lane, ReplicaError, Vector, Vectors


class Caller(msgspec.Struct, frozen=True):
    """What matters of who asks, beside the texts."""

    lane: Lane
    deadline: float
    """When the answer is of no use any more, monotonic seconds."""
    address: str = ""
    key: str = ""
    """The id of the caller's key; empty where none is asked for."""

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
        return [text for text in texts if text.abandoned_by(self)]


class Text:
    """A text on its way to a vector. Its backend tells it of one of the two, once."""

    __slots__ = ("encoding", "ticket", "waiting")

    def __init__(self, encoding: Encoding, waiting: Waiting, place: int) -> None:
        self.encoding = encoding
        self.waiting = [(waiting, place)]
        """The requests that wait for it, each with its row; empty once it is settled."""
        self.ticket: Any = None
        """For its backend to find it by."""

    def arrived(self, vector: Vector, queue_s: float, compute_s: float, source: str) -> None:
        """Its vector is there; `source` names the replica that computed it.

        Also when nobody waits any more: a batch that has begun is finished. The vector is a view of
        memory that is the text's alone or immutable.
        """
        del source
        self._give(vector, queue_s, compute_s)

    def failed(self, error: EmbedfleetError) -> None:
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


async def compute(
    backend: Backend,
    encodings: Sequence[Encoding],
    caller: Caller,
    width: int,
    *,
    by_item: bool = False,
) -> Waiting:
    """Vectors of `encodings`, shared with nobody: `rows` is [texts, width], or a list of one; with
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
