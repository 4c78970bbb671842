"""Which texts go to which replica, and when: late binding.

Pure and synchronous: events in, assignments out. A text stays in the queue until a replica has
room in its window of outstanding work, so nothing is stuck behind a long text that landed first,
or on a replica that died. Refuses to do the calls it decides on, and to read clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from embedfleet.fleet.balancing import Balancer, Candidate, Load
from embedfleet.gateway.queue import QueuedText, TextQueue
from embedfleet.vocabulary import Lane, ReplicaError

CRASHES_TO_ISOLATE = 2
"""A text whose replica was lost so often runs alone from then on, on a replica that has nothing
else: if it is what kills replicas, no other text is taken along any more."""


LOOKED_AT = 8
"""How many replicas are compared for one text in larger pools, so that a choice among hundreds
costs no more than one among these. (The best of d drawn is close to the best of all already for
small d: Mitzenmacher 2001.)"""


class Ending(Enum):
    """Why a call left texts unanswered."""

    LOST = "lost"
    """The replica or the connection to it died: one of these texts may have killed it."""
    FAILED = "failed"
    """It answered, but wrongly, or not these."""
    REFUSED = "refused"
    """It takes nothing new, because it drains: no text was tried."""
    UNREACHED = "unreached"
    """No connection to it could be made: no text was tried either."""


SHUT_S = 0.2
"""A replica that can't be reached is not tried again for so long. Its texts are not counted as
tried, so without a pause they would go to it in a circle."""


@dataclass(slots=True, eq=False)
class Assignment:
    """Texts of any requests that go to one replica in one call."""

    load: Load
    texts: dict[int, QueuedText]
    """Those not answered yet, by their id in the call."""
    handed_s: float
    """When they were handed over, monotonic seconds."""
    given_up: dict[int, QueuedText] = field(default_factory=dict)
    """Those taken back because they took too long; an answer that comes all the same is welcome."""

    @property
    def replica(self) -> str:
        return self.load.replica


class Dispatcher:
    """The queue of a pool, the loads of its usable replicas, and the matching of the two."""

    def __init__(self, balancer: Balancer, *, attempts: int) -> None:
        self.queue = TextQueue()
        self._balancer = balancer
        self._attempts = attempts
        self._loads: dict[str, Load] = {}
        self._usable: dict[Load, None] = {}
        self._tokens_per_s = 0.0
        self._open: dict[Load, None] = {}
        """Usable replicas that have room for any text, in the order in which they are looked at."""
        self._isolated: deque[QueuedText] = deque()
        self._quarantine: Load | None = None
        """The replica that is kept free for isolated texts; one at a time."""
        self._outstanding_tokens = 0

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
        """Tokens in all calls, those of replicas that left included."""
        return self._outstanding_tokens

    def join(self, load: Load) -> None:
        """A replica became usable."""
        self._loads[load.replica] = load
        self.refresh()

    def leave(self, replica: str) -> None:
        """A replica is not usable any more; what it has is still expected of it."""
        if self._loads.pop(replica, None) is not None:
            self.refresh()

    def load_of(self, replica: str) -> Load | None:
        return self._loads.get(replica)

    def refresh(self) -> None:
        """Take note that a load's cost model or last resort changed."""
        every = self._loads.values()
        usable = [load for load in every if not load.last_resort] or every
        self._usable = dict.fromkeys(usable)
        self._tokens_per_s = sum(1 / max(load.cost.per_token_s, 1e-9) for load in self._usable)
        self._open = {load: None for load in self._usable if load.open}

    def drain_s(self, lane: Lane | None = None) -> float:
        """Seconds that the usable replicas need for what waits (of a lane) and what they have."""
        waiting = self.queue.tokens if lane is None else self.queue.tokens_of(lane)
        tokens = waiting + self._outstanding_tokens
        return tokens / self._tokens_per_s if self._usable else float("inf")

    def assign(self, now: float) -> list[Assignment]:
        """Match waiting texts with replicas that have room, until one of the two runs out.

        Few texts are spread, so that replicas share them; many are cut into batches.
        """
        assignments = self._assign_isolated(now)
        share = -(-self.queue.tokens // max(1, len(self._open)))
        while (head := self.queue.peek()) is not None:
            if head.crashes >= CRASHES_TO_ISOLATE:
                self._isolated.append(self.queue.pop())
                assignments += self._assign_isolated(now)
                continue
            load = self._pick(head, now)
            if load is None:
                break
            most = min(max(share, load.least_share), load.batch_tokens)
            assignments.append(self._fill(load, most, now))
        return assignments

    def _assign_isolated(self, now: float) -> list[Assignment]:
        """Give the next isolated text to a replica that has nothing else, once there is one."""
        while self._isolated and self._isolated[0].closed:
            self._isolated.popleft()
        if not self._isolated:
            if self._quarantine is not None and not self._quarantine.outstanding_tokens:
                self._quarantine = None
            return []
        if self._quarantine not in self._usable or now < self._quarantine.shut_until:
            reached = [load for load in self._usable if now >= load.shut_until]
            fewest = min(reached, key=lambda load: load.outstanding_tokens, default=None)
            self._quarantine = fewest
        load = self._quarantine
        if load is None or load.outstanding_tokens:
            return []
        return [self._hand_over(load, [self._isolated.popleft()], now)]

    def _pick(self, head: QueuedText, now: float) -> Load | None:
        queue_s = self.queue.tokens / max(self._tokens_per_s, 1e-9)
        text = Candidate(head.tokens, now, queue_s, head.client)
        if len(self._usable) <= LOOKED_AT:
            return self._balancer.pick(self._eligible(list(self._usable), head), text)
        some = list(islice(self._open, LOOKED_AT))
        for load in some:  # the next text looks at others
            del self._open[load]
            self._open[load] = None
        return self._balancer.pick(self._eligible(some, head), text)

    def _eligible(self, loads: Sequence[Load], head: QueuedText) -> Sequence[Load]:
        """Without the quarantine, and without those that failed the text if others are left."""
        if self._quarantine is not None:
            loads = [load for load in loads if load is not self._quarantine]
        if head.avoid:
            loads = [load for load in loads if load.replica not in head.avoid] or loads
        return loads

    def settle(self, assignment: Assignment, text_id: int) -> QueuedText | None:
        """A text of a call was answered; None when another replica has answered it before.

        One that nobody waits for any more is given once, too: its batch had begun.

        ReplicaError when the call never had such a text, or had its answer.
        """
        text = assignment.texts.pop(text_id, None)
        if text is not None:
            self._release(assignment.load, text)
        else:
            text = assignment.given_up.pop(text_id, None)
            if text is None:
                raise ReplicaError(
                    f"replica {assignment.replica} answered text {text_id}, which it was not "
                    "asked for or has answered before"
                )
            self.queue.discard(text)
        if text.settled:
            return None
        text.closed = text.settled = True
        return text

    def give_up(self, assignment: Assignment, text_ids: Sequence[int]) -> None:
        """Take texts back that take too long, for another replica; whoever is first, answers."""
        for text_id in text_ids:
            text = assignment.texts.pop(text_id)
            self._release(assignment.load, text)
            if not text.closed:
                assignment.given_up[text_id] = text
                text.avoid |= {assignment.replica}
                self.queue.put(text)

    def end(
        self, assignment: Assignment, ending: Ending, *, retry: bool = True
    ) -> list[QueuedText]:
        """A call ended: queue what it left unanswered again, if it may be tried again.

        Return the texts that must fail: those tried too often, or all where none may be retried.
        """
        assignment.load.calls -= 1
        if ending is Ending.UNREACHED:
            assignment.load.shut_until = assignment.handed_s + SHUT_S
        exhausted: list[QueuedText] = []
        for text in assignment.texts.values():
            self._release(assignment.load, text)
            if text.closed:
                continue
            if ending in {Ending.REFUSED, Ending.UNREACHED}:
                text.attempts -= 1
            else:
                text.avoid |= {assignment.replica}
            text.crashes += ending is Ending.LOST
            if text.attempts >= self._attempts or not retry:
                text.closed = text.settled = True
                exhausted.append(text)
            else:
                self.queue.put(text)
        assignment.texts.clear()
        return exhausted

    def _release(self, load: Load, text: QueuedText) -> None:
        load.release(text.tokens)
        self._outstanding_tokens -= text.tokens
        if load.open and load in self._usable:
            self._open[load] = None

    def _fill(self, load: Load, most_tokens: int, now: float) -> Assignment:
        """Take texts off the queue for one call; a single one may be longer than `most_tokens`."""
        texts: list[QueuedText] = []
        taken = 0
        while (text := self.queue.peek()) is not None:
            if texts and (
                taken + text.tokens > most_tokens
                or load.outstanding_tokens + taken + text.tokens > load.window(now)
                or load.replica in text.avoid
                or text.crashes >= CRASHES_TO_ISOLATE
            ):
                break
            texts.append(self.queue.pop())
            taken += text.tokens
        return self._hand_over(load, texts, now)

    def _hand_over(self, load: Load, texts: list[QueuedText], now: float) -> Assignment:
        for text in texts:
            text.attempts += 1
            load.take(text.tokens)
            self._outstanding_tokens += text.tokens
        load.calls += 1
        if not load.open:
            self._open.pop(load, None)
        return Assignment(load, dict(enumerate(texts)), now)
