"""Memory for responses: reserved before they are built, released once the client has them."""

from __future__ import annotations

import asyncio
from collections import deque

from embedfleet.transport.access import Quota
from embedfleet.vocabulary import ServiceError

MOST_WAIT_S = 10.0
"""An answer waits so long for others to be taken; vectors were computed for it, after all."""


class AnswersFullError(ServiceError):
    """Too many answers are not taken by their callers."""

    code = "answers_in_flight"


class AnswerRoom:
    """Counts answers, first come first served."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self.shed = 0
        """Answers that found no room, since the start."""
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held_bytes(self) -> int:
        return self._held

    async def take(self, size: int) -> None:
        """Hold an answer's bytes, later given back; AnswersFullError where there is no room for
        ten seconds. A single answer is always admitted.
        """
        if not self._waiting and (not self._held or self._held + size <= self._most):
            self._held += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            async with asyncio.timeout(MOST_WAIT_S):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:
                self._waiting = deque(one for one in self._waiting if one[1] is not turn)
                self._let_in()
            if isinstance(error, TimeoutError):
                self.shed += 1
                raise AnswersFullError(
                    f"{self._held} bytes of responses are waiting for their clients to read "
                    f"them; the limit is {self._most} (gateway.max_answer_bytes); try again later",
                    retry_after_s=1,
                ) from None
            raise

    def give(self, size: int) -> None:
        """An answer was taken, or never will be."""
        self._held -= size
        if self._waiting:
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._held += size
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self._most


class HeldAnswer:
    """The bytes of one request's answer."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: AnswerRoom) -> None:
        self._room = room
        self._size = 0

    async def take(self, size: int) -> None:
        """AnswersFullError where there is no room."""
        await self._room.take(size)
        self._size += size

    def give(self) -> None:
        """All of it, once."""
        size, self._size = self._size, 0
        if size:
            self._room.give(size)


def delivered(answer: HeldAnswer, quota: Quota) -> None:
    """Free the memory of an answer that its client has; its key's texts are in flight no more."""
    answer.give()
    quota.close()
