"""Which texts go to which replica, and when: late binding.

Pure and synchronous: events in, assignments out. A text stays in the queue until a replica has
room in its window of outstanding work, so nothing is stuck behind a long text that landed first,
or on a replica that died. Refuses to do the calls it decides on, and to read clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from embedfleet.fleet.balancing import Load, least_outstanding
from embedfleet.gateway.queue import QueuedText, TextQueue
from embedfleet.vocabulary import ReplicaError


@dataclass(slots=True, eq=False)
class Assignment:
    """Texts of any requests that go to one replica in one call."""

    load: Load
    texts: dict[int, QueuedText]
    """Those not answered yet, by their id in the call."""

    @property
    def replica(self) -> str:
        return self.load.replica


class Dispatcher:
    """The queue of a pool, the loads of its usable replicas, and the matching of the two."""

    def __init__(self, *, attempts: int) -> None:
        self.queue = TextQueue()
        self._attempts = attempts
        self._loads: dict[str, Load] = {}

    def __repr__(self) -> str:
        loads = ", ".join(
            f"{load.replica} {load.outstanding_tokens}/{load.window_tokens}"
            for load in self._loads.values()
        )
        return f"<Dispatcher {self.queue!r} [Outstanding: {loads}]>"

    @property
    def loads(self) -> Iterable[Load]:
        return self._loads.values()

    @property
    def outstanding_tokens(self) -> int:
        return sum(load.outstanding_tokens for load in self._loads.values())

    def join(self, load: Load) -> None:
        """A replica became usable."""
        self._loads[load.replica] = load

    def leave(self, replica: str) -> Load | None:
        """A replica is not usable any more; what it has is still expected of it."""
        return self._loads.pop(replica, None)

    def load_of(self, replica: str) -> Load | None:
        return self._loads.get(replica)

    def assign(self) -> list[Assignment]:
        """Match waiting texts with replicas that have room, until one of the two runs out.

        Few texts are spread, so that replicas share them; many are cut into batches.
        """
        assignments: list[Assignment] = []
        sharing = sum(load.room_tokens > 0 for load in self._loads.values())
        share = -(-self.queue.tokens // max(1, sharing))
        while (head := self.queue.peek()) is not None:
            load = least_outstanding(self._loads.values(), head.tokens)
            if load is None:
                break
            assignments.append(self._fill(load, min(share, load.batch_tokens)))
        return assignments

    def settle(self, assignment: Assignment, text_id: int) -> QueuedText:
        """A text of a call was answered, well or badly; ReplicaError if it was not asked for."""
        text = assignment.texts.pop(text_id, None)
        if text is None:
            raise ReplicaError(
                f"replica {assignment.replica} answered text {text_id}, which it was not asked "
                "for or has answered before"
            )
        assignment.load.outstanding_tokens -= text.tokens
        return text

    def put_back(self, assignment: Assignment, *, counted: bool) -> list[QueuedText]:
        """Queue what a call left unanswered again, in its old order.

        Return the texts that were tried too often and must fail. `counted` is false when the
        replica was not at fault, because it drains, say.
        """
        exhausted: list[QueuedText] = []
        for text_id in sorted(assignment.texts, reverse=True):
            text = self.settle(assignment, text_id)
            if not counted:
                text.attempts -= 1
            if text.attempts >= self._attempts:
                exhausted.append(text)
            else:
                self.queue.put_back(text)
        return exhausted

    def _fill(self, load: Load, most_tokens: int) -> Assignment:
        """Take texts off the queue for one call; a single one may be longer than `most_tokens`."""
        texts: dict[int, QueuedText] = {}
        taken = 0
        while (text := self.queue.peek()) is not None:
            if texts and (taken + text.tokens > most_tokens or not load.fits(text.tokens)):
                break
            self.queue.pop()
            text.attempts += 1
            texts[len(texts)] = text
            taken += text.tokens
            load.outstanding_tokens += text.tokens
        return Assignment(load, texts)
