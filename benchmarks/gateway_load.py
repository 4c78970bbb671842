"""Load for the gateway benchmark: many HTTP requests from one core, without a client library.

Two kinds: `steady` sends at fixed times whatever comes back, and counts a request's time from when
it should have gone out, so that a stalled gateway can't hide behind a waiting client; `saturate`
keeps a number of requests open. `wrk` is for what this one would be too slow for.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import numpy as np

TIMEOUT_S = 120.0


class LostError(Exception):
    """The connection ended before the answer."""


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LostError("connection lost"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.usable = self.usable and self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    async def ask(self, request: bytes) -> int:
        """Send a request; return the status of its answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            return await self._answer


@dataclass
class Answered:
    """What came of the requests of one kind, in the order in which they were due."""

    due: list[float] = field(default_factory=list)
    """Monotonic seconds."""
    seconds: list[float] = field(default_factory=list)
    ok: list[bool] = field(default_factory=list)

    def note(self, due: float, *, ok: bool) -> None:
        self.due.append(due)
        self.seconds.append(time.monotonic() - due)
        self.ok.append(ok)

    def between(self, start: float, end: float) -> Answered:
        """Requests that were due in this time."""
        part = Answered()
        for due, seconds, ok in zip(self.due, self.seconds, self.ok, strict=True):
            if start <= due < end:
                part.due.append(due)
                part.seconds.append(seconds)
                part.ok.append(ok)
        return part

    def per_second(self, start: float, end: float) -> float:
        """Requests answered well a second, from the first answer in this time to the last one.

        Few large ones end in it: counting them over its whole length would be off by one or two.
        """
        every = zip(self.due, self.seconds, self.ok, strict=True)
        ends = sorted(due + seconds for due, seconds, ok in every if ok)
        ends = [each for each in ends if start <= each < end]
        return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0

    @property
    def errors(self) -> int:
        return len(self.ok) - sum(self.ok)

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1e3 if self.seconds else float("nan")


class Clients:
    """Connections to one gateway, kept and used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes) -> bool:
        """Send one request; whether it was answered 200. A broken connection is not tried again."""
        connection = None
        while self._idle and connection is None:
            kept = self._idle.pop()
            connection = kept if kept.usable else None
        try:
            if connection is None:
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, "127.0.0.1", self._port
                )
            status = await connection.ask(request)
        except (OSError, LostError, httptools.HttpParserError):
            return False
        if connection.usable:
            self._idle.append(connection)
        return status == 200

    async def steady(self, request: bytes, per_second: float, seconds: float) -> Answered:
        """Send at a fixed rate."""
        answered = Answered()
        start = time.monotonic()

        async def one(due: float) -> None:
            answered.note(due, ok=await self.ask(request))

        async with asyncio.TaskGroup() as group:
            for number in range(int(per_second * seconds)):
                due = start + number / per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(one(due))
        return answered

    async def saturate(self, request: bytes, connections: int, seconds: float) -> Answered:
        """Keep so many requests open until the time is over; the last ones are not waited for."""
        answered = Answered()
        end = time.monotonic() + seconds

        async def client() -> None:
            while (now := time.monotonic()) < end:
                answered.note(now, ok=await self.ask(request))
                if not answered.ok[-1]:
                    await asyncio.sleep(0.05)

        clients = [asyncio.create_task(client()) for _ in range(connections)]
        await asyncio.sleep(end - time.monotonic())
        for each in clients:
            each.cancel()
        for each in clients:
            with suppress(asyncio.CancelledError):
                await each
        self.close()
        return answered

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()


def request_bytes(body: bytes, *, lane: str = "") -> bytes:
    """An embeddings request, ready to be sent."""
    extra = f"x-embedfleet-lane: {lane}\r\n" if lane else ""
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer none\r\n{extra}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def texts_body(texts: int, tokens: int) -> bytes:
    """So many texts of so many token ids each."""
    ids = (np.arange(tokens) * 37 % 11_000 + 300).tolist()
    given = ids if texts == 1 else [ids] * texts
    return f'{{"model":"bench","input":{given},"encoding_format":"base64"}}'.encode()


@dataclass(frozen=True)
class Wrk:
    """What wrk measured."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


RESULT_LUA = """done = function(summary, latency)
  local e = summary.errors
  local errors = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), errors))
end
"""
"""What wrk prints at the end, for a script that is filled in with `%`."""

_LUA = """wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
"""


def wrk(
    port: int,
    body: str,
    place: Path,
    *,
    connections: int,
    seconds: float,
    core: int,
    key: str = "none",
) -> Wrk:
    """Ask as fast as it goes, from one thread on one core."""
    script = place / "load.lua"
    script.write_text((_LUA + RESULT_LUA) % (body, key))
    output = subprocess.run(
        [
            *("taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s"),
            *("--timeout", "60s", "-s", str(script), f"http://127.0.0.1:{port}/v1/embeddings"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None:
        raise RuntimeError(output)
    requests, micros, p50, p99, errors = map(int, found.groups())
    return Wrk(requests, micros / 1e6, p50 / 1e3, p99 / 1e3, errors)


def spread(count: int, cores: int) -> Iterator[int]:
    """Cores for helpers: all but the first, which is the gateway's; that one too if it is alone."""
    for number in range(count):
        yield 1 + number % (cores - 1) if cores > 1 else 0
