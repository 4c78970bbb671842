"""What was written to a client and did not leave yet.

Decides when what is written leaves, when an app waits before it writes more, and when a client that
takes nothing loses its connection: to close one sends what is left first, and would wait for ever.
Refuses to know answers.
Under TLS what is encrypted already is not seen here; there its own time for closing ends it.
"""

from __future__ import annotations

import asyncio

from embedfleet.serving.alarm import Alarm


class Unsent:
    """The way out of one connection."""

    __slots__ = ("_alarm", "_hurries", "_left", "_loop", "_room", "_stall_s", "_transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, stall_s: float
    ) -> None:
        """After `stall_s` in which a client took nothing of what waits for it, it is cut off."""
        self._loop = loop
        self._transport = transport
        self._stall_s = stall_s
        self._alarm = Alarm(loop, self._look)
        self._left = 0
        self._hurries = False
        self._room: asyncio.Future[None] | None = None

    def hurry(self, *, alone: bool) -> None:
        """Before an answer: `alone` where no other is being made.

        Such an answer leaves as soon as it is written, before what else is done for its request.
        Else answers leave together at the end of the event loop's turn, for 3 % less time.
        """
        if alone is not self._hurries:
            self._hurries = alone
            # A transport writes at once what its buffer has no room for.
            self._transport.set_write_buffer_limits(high=0 if alone else None)

    def pause(self) -> None:
        """Too much waits."""
        self._room = self._loop.create_future()
        self.watch()

    def resume(self) -> None:
        """Most of it has left."""
        if not self._transport.is_closing():  # else the last of it has to leave as well
            self._alarm.off()
        self._let_go()

    async def room(self) -> None:
        """Wait until the client has taken what was written."""
        if self._room is not None:
            await self._room

    def close(self) -> None:
        """End the connection once everything has left."""
        self._transport.close()
        self.watch()

    def watch(self) -> None:
        """See to it that what waits leaves."""
        self._left = self._transport.get_write_buffer_size()
        if self._left:
            self._alarm.set(self._stall_s)

    def lost(self) -> None:
        """There is no connection any more."""
        self._alarm.close()
        self._let_go()

    def _let_go(self) -> None:
        waiting, self._room = self._room, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _look(self) -> None:
        before = self._left
        self.watch()
        if self._left >= before:
            self._alarm.off()
            self._transport.abort()
