"""What a pool has to do: waiting in its queue, and handed to its replicas.

Decides what counts as unfinished. Refuses to know who asks: autoscaling, and whoever takes a
replica out of traffic and must know when it is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedfleet.gateway.admission import Pressure
from embedfleet.gateway.dispatch import Dispatcher
from embedfleet.gateway.flights import Flights
from embedfleet.vocabulary import Lane

IDLE = Pressure(0, 0.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """Read-only sight of a pool's work at this moment."""

    _dispatcher: Dispatcher
    _flights: Flights

    @property
    def queued_texts(self) -> int:
        """Texts that wait for a replica."""
        return len(self._dispatcher.queue)

    @property
    def in_flight_tokens(self) -> int:
        """Tokens with a replica."""
        return self._dispatcher.outstanding_tokens

    def queued_tokens(self, lane: Lane) -> int:
        """Tokens that wait for a replica in this lane."""
        return self._dispatcher.queue.tokens_of(lane)

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue or with a replica."""
        return self._dispatcher.queue.tokens + self._dispatcher.outstanding_tokens

    def pressure(self, lane: Lane) -> Pressure:
        """What is ahead of a text that comes to this lane now."""
        if not self.waiting_tokens:
            return IDLE
        # An interactive text passes what waits in the bulk lane; a bulk text waits for all.
        wait_s = self._dispatcher.drain_s(lane if lane is Lane.INTERACTIVE else None)
        return Pressure(self.waiting_tokens, 0.0 if wait_s == float("inf") else wait_s)

    def outstanding(self, replica: str) -> int:
        """Tokens that a replica still has to answer, also one that gets nothing new."""
        return sum(
            text.tokens
            for flight in self._flights
            if flight.member.name == replica
            for text in flight.assignment.texts.values()
        )
