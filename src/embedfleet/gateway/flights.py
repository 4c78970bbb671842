"""The calls in flight of one pool: which text is where.

Decides nothing; it is the index that lets a text be found, cancelled or taken back. Refuses to know
how calls are made.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import count

from embedfleet.fleet.fleet import Member
from embedfleet.gateway.dispatch import CRASHES_TO_ISOLATE, Assignment
from embedfleet.gateway.queue import QueuedText
from embedfleet.telemetry.tracing import OpenSpan, calling
from embedfleet.vocabulary import Lane
from embedfleet.wire.frames import CallText, encoding_bytes

FORSAKEN_S = 60.0
"""How long a call that nobody waits for may bring nothing. Its vectors would still be for the
cache, but a replica that hangs must not hold its window for ever."""

_PROCESS, _calls = secrets.token_hex(8), count()
"""Together they name a call: other gateways have other names for theirs."""


class Flight:
    """One call in flight."""

    __slots__ = ("assignment", "ids", "key", "member", "progressed")

    def __init__(self, member: Member, assignment: Assignment, now: float) -> None:
        self.member = member
        self.assignment = assignment
        self.key = f"{_PROCESS}{next(_calls):x}"
        self.ids = {id(text): number for number, text in assignment.texts.items()}
        self.progressed = now
        """When it was started or brought a frame last, monotonic seconds."""

    def forsaken(self, now: float) -> bool:
        """Whether nobody waits for any of its texts, and it has brought nothing for long."""
        if now - self.progressed < FORSAKEN_S:
            return False
        assignment = self.assignment
        return all(
            text.closed for text in (*assignment.texts.values(), *assignment.given_up.values())
        )

    def on_wire(self, now: float) -> list[CallText]:
        """Its texts as they travel."""
        return [
            CallText(
                number,
                encoding_bytes(text.encoding),
                bulk=text.lane is Lane.BULK,
                deadline_ms=max(1, round((text.deadline - now) * 1000)),
                alone=text.crashes >= CRASHES_TO_ISOLATE,
            )
            for number, text in self.assignment.texts.items()
        ]

    def traced(self) -> AbstractContextManager[OpenSpan | None]:
        """The span of this call: a part of the requests whose texts it carries."""
        texts = self.assignment.texts.values()
        requests = dict.fromkeys(text.trace for text in texts)
        tokens = sum(text.tokens for text in texts) if any(requests) else 0
        return calling(self.member.name, requests, texts=len(texts), tokens=tokens)


class Flights:
    """All calls in flight, by task and by text."""

    def __init__(self) -> None:
        self._by_call: dict[asyncio.Task[None], Flight] = {}
        self._by_text: dict[int, Flight] = {}

    def __iter__(self) -> Iterator[Flight]:
        return iter(tuple(self._by_call.values()))

    def start(self, call: asyncio.Task[None], flight: Flight) -> None:
        self._by_call[call] = flight
        for text in flight.ids:
            self._by_text[text] = flight

    def end(self, call: asyncio.Task[None]) -> Flight:
        """Forget a call that ended."""
        flight = self._by_call.pop(call)
        for text in flight.ids:
            if self._by_text.get(text) is flight:
                del self._by_text[text]
        return flight

    def calls_of(self, member: Member) -> list[asyncio.Task[None]]:
        return [call for call, flight in self._by_call.items() if flight.member is member]

    def forsaken(self, now: float) -> list[asyncio.Task[None]]:
        """Calls to break off: see `Flight.forsaken`."""
        return [call for call, flight in self._by_call.items() if flight.forsaken(now)]

    def where(self, texts: Iterable[QueuedText]) -> dict[Flight, list[int]]:
        """In which calls texts are, with their ids there."""
        found: dict[Flight, list[int]] = {}
        for text in texts:
            flight = self._by_text.get(id(text))
            if flight is not None:
                found.setdefault(flight, []).append(flight.ids[id(text)])
        return found

    async def cancel_all(self) -> None:
        calls = list(self._by_call)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
