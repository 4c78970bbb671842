"""Fair scheduling of tokenisation: whose request is tokenised next, and admission to that queue.

Pure. Lanes share the work as in a pool's queue; clients within a lane share it equally; of one
client's requests the most urgent is first. A request is processed in slices and re-enters the queue
after each, so that a large one delays others by a slice at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from embedfleet.scheduling.urgency import BULK_LEAD, LANE_SHARES, urgency
from embedfleet.vocabulary import Lane, OverloadedError, retry_after_s

CHARACTERS_PER_TOKEN = 4
"""Of English; ranks requests whose tokens are not known yet."""

LEAD = BULK_LEAD * CHARACTERS_PER_TOKEN
BULK_SHARE = 0.5
"""How much of the room bulk requests may take."""

Work = TypeVar("Work")


@dataclass(slots=True, eq=False)
class Ticket(Generic[Work]):
    """One request that waits to be tokenised."""

    work: Work
    lane: Lane
    caller: str
    """The id of its key, or its address."""
    characters: int
    """All of it, prompts included."""
    arrived: float
    deadline: float
    """Monotonic seconds."""
    left: int = field(init=False)
    """Characters not yet tokenised."""

    def __post_init__(self) -> None:
        self.left = self.characters

    @property
    def urgency(self) -> float:
        return urgency(self.arrived, self.characters // CHARACTERS_PER_TOKEN, self.deadline)


class _Callers(Generic[Work]):
    """The callers of one lane, and what each has had."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.served = 0.0
        """Characters, for its share."""
        self.characters = 0
        """Characters that wait or are being worked on."""
        self._waiting: dict[str, list[Ticket[Work]]] = {}
        self._had: dict[str, float] = {}
        self._least = 0.0
        """What the caller whose turn it was last had: who comes anew begins there."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, ticket: Ticket[Work]) -> None:
        self._waiting.setdefault(ticket.caller, []).append(ticket)
        self._had[ticket.caller] = max(self._had.get(ticket.caller, 0.0), self._least)

    def take(self) -> Ticket[Work]:
        caller = min(self._waiting, key=self._had.__getitem__)
        self._least = self._had[caller]
        tickets = self._waiting[caller]
        ticket = min(tickets, key=lambda one: one.urgency)
        self._out(ticket)
        return ticket

    def remove(self, ticket: Ticket[Work]) -> bool:
        if ticket not in self._waiting.get(ticket.caller, ()):
            return False
        self._out(ticket)
        return True

    def worked(self, ticket: Ticket[Work], characters: int) -> None:
        self.served += characters / self.share
        self._had[ticket.caller] = self._had.get(ticket.caller, self._least) + characters

    def forget_idle(self, running: set[str]) -> None:
        """What a caller had counts while it has something here."""
        for caller in self._had.keys() - self._waiting.keys() - running:
            del self._had[caller]

    def _out(self, ticket: Ticket[Work]) -> None:
        tickets = self._waiting[ticket.caller]
        tickets.remove(ticket)
        if not tickets:
            del self._waiting[ticket.caller]


class TokenizerQueue(Generic[Work]):
    """All requests that wait to be tokenised."""

    def __init__(self, most_characters: int, characters_per_s: float) -> None:
        """`characters_per_s` is a first guess of what the threads do together."""
        self._most = most_characters
        self._per_s = characters_per_s
        self._lanes = {lane: _Callers[Work](share) for lane, share in LANE_SHARES.items()}
        self._running: list[Ticket[Work]] = []

    def __bool__(self) -> bool:
        return any(self._lanes.values())

    @property
    def characters(self) -> int:
        """Characters not yet tokenised, of all requests."""
        return sum(lane.characters for lane in self._lanes.values())

    def admit(self, characters: int, lane: Lane, left_s: float) -> None:
        """Return if a request may wait; OverloadedError with the time to try again if not.

        A request that finds nothing before it is never refused.
        """
        before = self.characters
        if not before:
            return
        most = int(self._most * (BULK_SHARE if lane is Lane.BULK else 1.0))
        own = self._lanes[lane]
        ahead = min(before, own.characters / own.share)
        wait_s = ahead / self._per_s
        if before + characters > most:
            raise OverloadedError(
                f"{before} characters wait to be tokenised and {characters} more would pass the "
                f"limit of {most} for {lane} texts (gateway.max_queued_bytes); try again later",
                retry_after_s=retry_after_s((before + characters - most) / self._per_s),
            )
        if wait_s > left_s:
            raise OverloadedError(
                f"the wait for tokenising is about {wait_s:.1f} s, the request's deadline comes "
                f"in {max(0.0, left_s):.1f} s; try again later or allow more time",
                retry_after_s=retry_after_s(wait_s - left_s),
            )

    def put(self, ticket: Ticket[Work]) -> None:
        """A request begins to wait."""
        self._lanes[ticket.lane].characters += ticket.left
        self._lanes[ticket.lane].put(ticket)

    def take(self) -> Ticket[Work]:
        """The request whose slice is next; there must be one. It must come back by `back`."""
        interactive, bulk = self._lanes[Lane.INTERACTIVE], self._lanes[Lane.BULK]
        if not (interactive and bulk):
            # While only one lane has work, its share is not accounted for.
            interactive.served = bulk.served = 0.0
        first = interactive and (not bulk or interactive.served - LEAD <= bulk.served)
        ticket = (interactive if first else bulk).take()
        self._running.append(ticket)
        return ticket

    def back(self, ticket: Ticket[Work], characters: int, seconds: float, *, done: bool) -> None:
        """A slice of so many characters is over; the rest waits again unless it is `done`."""
        lane = self._lanes[ticket.lane]
        before = ticket.left
        ticket.left = 0 if done else max(0, ticket.left - characters)
        lane.characters -= before - ticket.left
        lane.worked(ticket, characters)
        if characters and seconds > 0:
            rate = characters / seconds * len(self._running)
            self._per_s += 0.1 * (rate - self._per_s)
        self._running.remove(ticket)
        if not done:
            lane.put(ticket)
        lane.forget_idle({one.caller for one in self._running if one.lane is ticket.lane})

    def remove(self, ticket: Ticket[Work]) -> None:
        """Remove a request that was cancelled; no effect while a slice of it is being tokenised."""
        lane = self._lanes[ticket.lane]
        if lane.remove(ticket):
            lane.characters -= ticket.left
