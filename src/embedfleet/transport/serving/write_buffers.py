"""Response buffers: bounds the bytes that wait for slow clients, and cuts off the slowest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from embedfleet.vocabulary import ServiceError

GRACE_S = 5.0
"""A client that has had its answer for less time is not called slow."""

FAST_BYTES_PER_S = 1 << 20
"""Nor is one that takes as much as this."""

SHARE = 0.5
"""Most of the room that one address may have while others ask."""


class Taker(Protocol):
    """The connection of a client that takes an answer."""

    def cut_off(self) -> None:
        """End the connection at once."""
        ...


@dataclass(slots=True)
class _Held:
    address: str
    size: int
    since: float
    taken: int = 0


class Answers:
    """The room for answers of all connections of a server."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: dict[Taker, _Held] = {}
        self.bytes = 0
        """Held now."""
        self.shed = 0
        """Answers that had no room, since the start."""
        self.cut_off = 0
        """Clients that took their answers too slowly, and were cut off."""

    def hold(self, taker: Taker, address: str, size: int, now: float) -> None:
        """Count an answer of a connection; ServiceError where there is no room for it.

        A single answer has room however large it is.
        """
        while self._held and self.bytes + size > self._most:
            slowest = self._slowest(now)
            if slowest is None:
                break
            self.cut_off += 1
            self.release(slowest)
            slowest.cut_off()
        others = sum(each.size for each in self._held.values() if each.address == address)
        crowded = self.bytes and self.bytes + size > self._most
        if crowded or (others and others + size > self._most * SHARE):
            self.shed += 1
            raise ServiceError(
                f"{self.bytes} bytes of responses are waiting for their clients; the limit is "
                f"{self._most} "
                "(gateway.max_answer_bytes), half of it for one address; read answers faster or "
                "request less at once",
                retry_after_s=1,
            )
        self._held[taker] = _Held(address, size, now)
        self.bytes += size

    def took(self, taker: Taker, size: int) -> None:
        """A client has taken so much more of its answer."""
        held = self._held.get(taker)
        if held is not None:
            held.taken += size

    def release(self, taker: Taker) -> None:
        """The answer has left, or its client has."""
        held = self._held.pop(taker, None)
        if held is not None:
            self.bytes -= held.size

    def _slowest(self, now: float) -> Taker | None:
        rates = [
            (each.taken / (now - each.since), number, taker)
            for number, (taker, each) in enumerate(self._held.items())
            if now - each.since >= GRACE_S
        ]
        rate, _, taker = min(rates, default=(FAST_BYTES_PER_S, 0, None))
        return taker if rate < FAST_BYTES_PER_S else None
