"""An alarm that is put off far more often than it rings.

Decides when a timer of the event loop is really moved: only when it would come too late. To set one
costs microseconds, and a connection changes its mind twice a request. Refuses to know what for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SLEEP_S = 60.0
"""How far a timer is put that nobody waits for."""

NEVER = float("inf")


class Alarm:
    """Calls `ring` once when its time has come."""

    __slots__ = ("_due", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._due = NEVER
        self._timer: asyncio.TimerHandle | None = None

    @property
    def on(self) -> bool:
        return self._due != NEVER

    def set(self, seconds: float) -> None:
        """Ring so many seconds from now, and not when it was to ring before."""
        self._due = due = self._loop.time() + seconds
        timer = self._timer
        if timer is None or timer.when() > due:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(due, self._wake)

    def off(self) -> None:
        """Do not ring."""
        self._due = NEVER

    def close(self) -> None:
        """Never ring again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        now = self._loop.time()
        if now < self._due:
            self._timer = self._loop.call_at(min(self._due, now + SLEEP_S), self._wake)
        else:
            self._timer, self._due = None, NEVER
            self._ring()
