"""Work that is for nobody once its caller has left or its deadline has passed.

Decides when work is broken off, and with which error. Refuses to know what the work is.
"""

from __future__ import annotations

import asyncio

from embedfleet.vocabulary import DeadlineError
from embedfleet.wire.asgi import ClientGoneError, Request

PATIENCE_S = 0.02
"""Work is watched from then on: most is done before, and a watch costs a task."""


class Attendance:
    """Around such work: it is cancelled, and ClientGoneError or DeadlineError comes out.

    The body of the request must have been read.
    """

    __slots__ = ("_left_s", "_reason", "_request", "_start", "_watch", "_work")

    def __init__(self, request: Request, left_s: float) -> None:
        """`left_s` are the seconds until the deadline."""
        self._request = request
        self._left_s = left_s
        self._watch: asyncio.Task[None] | None = None
        self._reason: Exception | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._work = asyncio.current_task(loop)
        self._start = loop.call_later(max(0.0, min(PATIENCE_S, self._left_s)), self._begin)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._start.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._reason is not None and self._work is not None:
            cancelled_by_others = self._work.uncancel()
            if kind is asyncio.CancelledError and not cancelled_by_others:
                raise self._reason from None

    def _begin(self) -> None:
        self._watch = asyncio.ensure_future(self._attend())

    async def _attend(self) -> None:
        try:
            await asyncio.wait_for(self._request.gone(), max(0.0, self._left_s - PATIENCE_S))
            self._reason = ClientGoneError()
        except TimeoutError:
            self._reason = DeadlineError("the deadline passed before the answer was ready")
        if self._work is not None:
            self._work.cancel()
