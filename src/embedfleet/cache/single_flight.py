"""Equal texts that are wanted at the same time are computed once.

Decides who waits for whose computation, and when one goes on that its first caller has left.
Refuses to know how vectors are computed, and requests beyond the texts that one waits for.

A *flight* is one text being computed; a *work* is one call of the backend with the flights that it
carries; a *claim* is what one request waits for. A work goes on while anybody claims one of its
texts that are not there yet, and is cancelled when nobody does. Texts whose batch has begun by then
come back all the same, and are kept. An error belongs to the request that had the work done: others
lose the texts that they shared with it, and nothing else. They try again for themselves, because it
may be the fault of a text beside theirs, or of a deadline that is not theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from embedfleet.cache.entry import Entry
from embedfleet.vocabulary import Lane, Vector


class Arrived(Protocol):
    """Told of each vector as it comes."""

    def __call__(self, index: int, vector: Vector, queue_s: float, compute_s: float) -> None:
        """`index`: which of the work's texts. The vector is only lent."""
        ...


Compute: TypeAlias = Callable[[Arrived], Coroutine[Any, Any, object]]
"""Computes the texts of a work; raises the error of the first one that has no vector."""


class Order(NamedTuple):
    """A text to be computed, and what is known of it."""

    key: bytes
    tokens: int
    truncated: bool


@dataclass(slots=True, eq=False)
class _Work:
    flights: list[_Flight]
    leader: Claim
    wanted: int = 0
    """Claims on its flights that are not done, summed."""
    left: int = 0
    """Flights that are not done."""
    cancelled: bool = False
    task: asyncio.Task[object] | None = None


@dataclass(slots=True, eq=False)
class _Flight:
    order: Order
    lane: Lane
    stores: bool
    """Whether anybody who waits allows the vector to be kept."""
    claims: list[tuple[Claim, int]] = field(default_factory=list)
    work: _Work | None = None
    done: bool = False


class Claim:
    """What one request waits for: so many texts, each by its place.

    It is finished when every one is there or lost, or with the error of its own work.
    """

    def __init__(self, texts: int, *, stores: bool) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.entries: list[Entry | None] = [None] * texts
        self.stores = stores
        self.queue_s = self.compute_s = 0.0
        self._missing = texts
        self.flights: list[_Flight] = []

    def take(self, place: int, entry: Entry, queue_s: float = 0.0, compute_s: float = 0.0) -> None:
        """One of the texts is there."""
        self.entries[place] = entry
        self.queue_s = max(self.queue_s, queue_s)
        self.compute_s = max(self.compute_s, compute_s)
        self._one_less()

    def lose(self) -> None:
        """One of the texts does not come: it has no entry, and the others are waited for."""
        self._one_less()

    def fail(self, error: BaseException) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)

    def _one_less(self) -> None:
        self._missing -= 1
        if not self._missing and not self.finished.done():
            self.finished.set_result(None)


class SingleFlight:
    """The texts being computed, by key."""

    def __init__(
        self, keep: Callable[[Order, Vector], Entry], hold: Callable[[Order, Vector], Entry]
    ) -> None:
        """`keep` makes an entry and stores it, `hold` only makes it."""
        self._keep = keep
        self._hold = hold
        self._flights: dict[bytes, _Flight] = {}
        self._works: set[_Work] = set()
        self.shared = 0
        """Texts that did not have to be computed because they were already being."""

    def __len__(self) -> int:
        return len(self._flights)

    def flying(self, key: bytes, lane: Lane) -> bool:
        """Whether a text can be waited for: one that somebody waits for at once does not stand
        behind a bulk text that is the same.
        """
        flight = self._flights.get(key)
        return flight is not None and (flight.lane is Lane.INTERACTIVE or lane is Lane.BULK)

    def follow(self, claim: Claim, place: int, key: bytes) -> None:
        """Wait for a text that is flying."""
        self._join(self._flights[key], claim, place)
        self.shared += 1

    def lead(
        self,
        claim: Claim,
        places: Sequence[int],
        orders: Sequence[Order],
        lane: Lane,
        compute: Compute,
    ) -> None:
        """Have texts computed, as one work; whoever wants one of them meanwhile can follow."""
        work = _Work([], claim)
        for place, order in zip(places, orders, strict=True):
            flight = _Flight(order, lane, claim.stores, work=work)
            work.flights.append(flight)
            work.left += 1
            self._flights[order.key] = flight
            self._join(flight, claim, place)
        self._works.add(work)

        def arrived(index: int, vector: Vector, queue_s: float, compute_s: float) -> None:
            self._land(work.flights[index], vector, queue_s, compute_s)

        work.task = asyncio.get_running_loop().create_task(compute(arrived))
        work.task.add_done_callback(partial(self._end, work))

    def leave(self, claim: Claim) -> None:
        """Nobody waits for this claim any more; what is then for nobody is cancelled."""
        if not claim.finished.cancel() and not claim.finished.cancelled():
            claim.finished.exception()  # or asyncio complains that nobody has looked at it
        for flight in claim.flights:
            if flight.done or flight.work is None:
                continue
            flight.claims = [one for one in flight.claims if one[0] is not claim]
            flight.work.wanted -= 1
            self._break_off_unwanted(flight.work)

    def close(self) -> None:
        """Break off everything."""
        for work in list(self._works):
            self._cancel(work)

    def _join(self, flight: _Flight, claim: Claim, place: int) -> None:
        flight.claims.append((claim, place))
        flight.stores = flight.stores or claim.stores
        claim.flights.append(flight)
        if flight.work is not None:
            flight.work.wanted += 1

    def _land(self, flight: _Flight, vector: Vector, queue_s: float, compute_s: float) -> None:
        """A vector came, also when nobody waits for it any more."""
        if flight.done:
            return
        self._close(flight)
        entry = (self._keep if flight.stores else self._hold)(flight.order, vector)
        claims, flight.claims = flight.claims, []
        for claim, place in claims:
            claim.take(place, entry, queue_s, compute_s)
        if flight.work is not None:
            self._break_off_unwanted(flight.work)

    def _close(self, flight: _Flight) -> None:
        flight.done = True
        self._forget(flight)
        if flight.work is not None:
            flight.work.wanted -= len(flight.claims)
            flight.work.left -= 1

    def _forget(self, flight: _Flight) -> None:
        """Nobody can follow it any more; another one for the same text may have taken its place."""
        if self._flights.get(flight.order.key) is flight:
            del self._flights[flight.order.key]

    def _break_off_unwanted(self, work: _Work) -> None:
        if work.left and not work.wanted:
            self._cancel(work)

    def _cancel(self, work: _Work) -> None:
        if work.cancelled:  # once: it may be tidying up
            return
        work.cancelled = True
        for flight in work.flights:
            self._forget(flight)
        if work.task is not None:
            work.task.cancel()

    def _end(self, work: _Work, task: asyncio.Task[object]) -> None:
        self._works.discard(work)
        error = None if task.cancelled() else task.exception()
        for flight in work.flights:
            self._forget(flight)
            claims, flight.claims = flight.claims, []
            for claim, _ in claims:
                if error is not None and claim is work.leader:
                    claim.fail(error)
                else:
                    claim.lose()
            # Nothing may hold a vector that nobody waits for until the garbage is collected.
            flight.work = None
        work.task = None
