"""Message channel between the primary and one worker, over a socket pair.

A message is a length followed by a msgpack body. Both ends are processes of the same release on one
machine: a message that can't be decoded is a bug and closes the channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from itertools import count
from typing import Any, Generic, TypeVar

import msgspec

from embedfleet.vocabulary import ServiceError

ANSWER_TIMEOUT_S = 5.0
"""How long the answer to a question is waited for; a process that takes longer hangs."""

_LENGTH_BYTES = 4

In = TypeVar("In")


class ChannelClosedError(ServiceError):
    """The process at the other end has ended or hangs."""


class Question(msgspec.Struct, tag=True, gc=False):
    """Something that the other end is to answer."""

    id: int
    what: str
    argument: Any = None


class Answer(msgspec.Struct, tag=True, gc=False):
    """What it answered: any value of msgpack, or an error's message."""

    id: int
    value: Any = None
    error: str = ""


class Channel(Generic[In]):
    """One end. Sending never waits: what is sent here is small, and the other end reads always."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, type_: Any
    ) -> None:
        """`type_` is the union of the messages that come in, `Question` and `Answer` aside."""
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(type_ | Question | Answer)
        self._ids = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def over(cls, connected: socket.socket, type_: Any) -> Channel[In]:
        connected.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connected)
        return cls(reader, writer, type_)

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; to a process that has ended it is lost."""
        body = self._encoder.encode(message)
        if not self._writer.transport.is_closing():
            self._writer.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)

    async def ask(self, what: str, argument: Any = None) -> Any:
        """The answer to a question. Raises ChannelClosedError where none comes, ServiceError with
        the other end's words where it can't answer.
        """
        question = Question(next(self._ids), what, argument)
        future = self._asked[question.id] = asyncio.get_running_loop().create_future()
        self.send(question)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise ChannelClosedError(f"no answer within {ANSWER_TIMEOUT_S:g} s") from None
        finally:
            del self._asked[question.id]

    async def messages(self) -> AsyncIterator[In | Question]:
        """Receive messages until the other end closes; answers resolve pending requests."""
        try:
            while True:
                head = await self._reader.readexactly(_LENGTH_BYTES)
                body = await self._reader.readexactly(int.from_bytes(head, "big"))
                message = self._decoder.decode(body)
                if isinstance(message, Answer):
                    self._answered(message)
                else:
                    yield message
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.close()

    async def finish(self) -> None:
        """Close it once all that was sent has left."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()
            self._writer.close()
            await self._writer.wait_closed()

    def close(self) -> None:
        """Close it; questions that are open get no answer."""
        self._writer.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ChannelClosedError("the process has ended"))

    def _answered(self, answer: Answer) -> None:
        future = self._asked.get(answer.id)
        if future is None or future.done():
            return  # it came too late
        if answer.error:
            future.set_exception(ServiceError(answer.error))
        else:
            future.set_result(answer.value)
