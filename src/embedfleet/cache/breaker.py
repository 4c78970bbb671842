"""Circuit breaker: stops calling a dependency that keeps failing. Pure; `now` is handed in.

Closed: calls pass. Open: calls are skipped. Half-open, after a pause: one trial call passes, and
its result closes or reopens the breaker.
"""

from __future__ import annotations

from enum import StrEnum

FAILURES_TO_OPEN = 5
"""In a row. One slow answer says little; five time-outs cost the requests that waited for them a
quarter of a second in all."""

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 30.0
"""Between tries: doubled after each one that fails."""


class State(StrEnum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after failures in a row, and lets one call try after a pause."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._until: float | None = None
        """While it is open: when the next try may be."""
        self._trying = False

    def __repr__(self) -> str:
        return f"<Breaker {self._failures} failures>"

    def state(self, now: float) -> State:
        if self._until is None:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def admits(self, now: float) -> bool:
        """Whether to call now. In the half-open state the first one who asks may, as the only one;
        if it never tells how it went, another one may after the pause.
        """
        if self._until is None:
            return True
        if now < self._until:
            return False
        self._until = now + self._pause_s
        self._trying = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._until = None
        self._trying = False

    def failed(self, now: float) -> bool:
        """Return whether this opened it."""
        self._failures += 1
        if self._until is None:
            if self._failures < FAILURES_TO_OPEN:
                return False
            self._until = now + self._pause_s
            return True
        if self._trying:  # else it was a call from before, and says nothing new
            self._trying = False
            self._pause_s = min(MOST_PAUSE_S, 2 * self._pause_s)
            self._until = now + self._pause_s
        return False
