"""Cancels request handling when the client disconnects or the deadline expires.

The handler is cancelled with the error that says why; handling may begin before the body is read.
"""

from __future__ import annotations

import asyncio

from embedfleet.transport.asgi import ClientGoneError, Request
from embedfleet.vocabulary import DeadlineError

WATCH_AFTER_S = 0.1
"""Work is watched after one or two of these: most is done before, and a watch costs a task."""


class _WatchTimer:
    """One timer for all work of an event loop: a timer for each costs as much as tokenising.

    It goes on for as long as there is work.
    """

    __slots__ = ("_loop", "new", "old")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.new: dict[CancelScope, None] = {}
        """Work that began since the timer went last, and before that."""
        self.old: dict[CancelScope, None] = {}
        for other in list(_timers):
            if other.is_closed():
                _timers.pop(other, None)
        _timers[loop] = self
        loop.call_later(WATCH_AFTER_S, self._go)

    def _go(self) -> None:
        for scope in self.old:
            scope.begin()
        self.old, self.new = self.new, {}
        if self.old:
            self._loop.call_later(WATCH_AFTER_S, self._go)
        else:
            del _timers[self._loop]


_timers: dict[asyncio.AbstractEventLoop, _WatchTimer] = {}


class CancelScope:
    """Around such work: it is cancelled, and ClientGoneError or DeadlineError comes out."""

    __slots__ = (
        "_deadline",
        "_due",
        "_left_s",
        "_loop",
        "_reason",
        "_request",
        "_soon",
        "_timer",
        "_watch",
        "_whole",
        "_work",
    )

    def __init__(self, request: Request, left_s: float, *, whole: bool = True) -> None:
        """`left_s` are the seconds until the deadline. Unless the request is `whole`, its body is
        read within; that the caller leaves is then found out there, and from `read` on here.
        """
        self._whole = whole
        self._due = False
        self._timer: _WatchTimer | None = None
        self._request = request
        self._left_s = left_s
        self._soon: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._reason: Exception | None = None

    def __enter__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._work = asyncio.current_task(loop)
        self._deadline = loop.time() + self._left_s
        if self._left_s < 2 * WATCH_AFTER_S:
            self._soon = loop.call_later(max(0.0, self._left_s), self.begin)
        else:
            self._timer = _timers.get(loop) or _WatchTimer(loop)
            self._timer.new[self] = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._soon is not None:
            self._soon.cancel()
        timer = self._timer
        if timer is not None:
            (timer.new if self in timer.new else timer.old).pop(self, None)
        # The watch's error holds frames that hold this scope: without this, a reference cycle.
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        work, self._work = self._work, None  # a watch that ends only now has nothing to cancel
        if self._reason is not None and work is not None:
            cancelled_by_others = work.uncancel()
            if kind is asyncio.CancelledError and not cancelled_by_others:
                raise self._reason from None

    def begin(self) -> None:
        """Watch from now on."""
        if self._whole:
            self._watch = asyncio.ensure_future(self._watch_client())
        else:  # only one can wait for what the caller sends
            self._due = True
            self._soon = self._loop.call_at(self._deadline, self._expire)

    def read(self) -> None:
        """The body is there."""
        self._whole = True
        if self._due:
            if self._soon is not None:
                self._soon.cancel()
            self.begin()

    def _expire(self) -> None:
        self._reason = DeadlineError("the deadline passed before the request had arrived")
        if self._work is not None:
            self._work.cancel()

    async def _watch_client(self) -> None:
        try:
            left_s = self._deadline - self._loop.time()
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets its end.
            async with asyncio.timeout(max(0.0, left_s)):
                await self._request.gone()
            self._reason = ClientGoneError()
        except TimeoutError:
            self._reason = DeadlineError("the deadline passed before the answer was ready")
        if self._work is not None:
            self._work.cancel()
