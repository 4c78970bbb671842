"""The second tier: entries in Redis, which gateways share and which outlives them.

A shell around the client library. Decides that a request never waits long for it and never fails
by it: reads take one round trip and have a time-out, writes happen in the background within a
number of bytes, and a breaker leaves a Redis alone that does not answer. Refuses to know what an
entry means. It loads the library, so it is itself loaded only where Redis is wanted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from embedfleet.cache.breaker import Breaker, State
from embedfleet.settings import CacheSettings
from embedfleet.vocabulary import SettingError

log = logging.getLogger(__name__)

TROUBLE = (RedisError, OSError, TimeoutError)

Values: TypeAlias = list[bytes | None]
"""In the order of their keys; None where there is none."""

MOST_AT_ONCE = 128
"""Entries written in one pipeline, or read in one answer beyond a request's own: half a MiB of
1,024 dimensions, a few milliseconds."""

WRITE_TIMEOUT_S = 1.0
"""Nobody waits for a write; it may take longer than a read."""


@dataclass(slots=True)
class RedisCounts:
    """What happened since the start, in texts."""

    unasked: int = 0
    """Looked up without Redis: it was left alone, or did not answer (in time). No misses."""
    written: int = 0
    refused: int = 0
    """Writes that Redis refused, for instance because it is full."""
    unwritten: int = 0
    """Writes that were left out: too many waited, or Redis was not there."""
    written_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """The keys of one request, and the values that it waits for."""

    keys: Sequence[bytes]
    answer: asyncio.Future[Values | None]


def ignored(_seconds: float) -> None:
    """Nobody measures."""


class RedisTier:
    """Entries by key, in a Redis or a cluster."""

    def __init__(
        self,
        client: Redis | RedisCluster,
        settings: CacheSettings,
        *,
        looked_up: Callable[[float], None] = ignored,
    ) -> None:
        """`looked_up` is told how long each answer took, in seconds."""
        self._client = client
        self._prefix = settings.redis_prefix
        self._ttl_ms = round(settings.redis_ttl_s * 1000)
        self._timeout_s = settings.redis_timeout_s
        self._most_rounds = settings.redis_connections
        self._most_queued = settings.redis_queued_bytes
        self._looked_up = looked_up
        self._breaker = Breaker()
        self._questions: deque[_Question] = deque()
        self._rounds: set[asyncio.Task[None]] = set()
        self._asking = False
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self.queued_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._told_refused = False
        self.counts = RedisCounts()

    @property
    def state(self) -> State:
        return self._breaker.state(time.monotonic())

    async def fetch(self, keys: Sequence[bytes]) -> Values | None:
        """The values of these keys, in one round trip; None if it was not asked, or too slow."""
        values: Values | None = None
        if self._breaker.admits(time.monotonic()):
            question = _Question(keys, asyncio.get_running_loop().create_future())
            self._questions.append(question)
            self._ask_soon()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    values = await question.answer
        if values is None:
            self.counts.unasked += len(keys)
        return values

    def store(self, key: bytes, value: bytes) -> None:
        """Write soon; or not at all when too much waits, or Redis is left alone."""
        full = self.queued_bytes + len(value) > self._most_queued
        if full or self._breaker.state(time.monotonic()) is State.OPEN:
            self.counts.unwritten += 1
            return
        self._queue.append((key, value))
        self.queued_bytes += len(value)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def clear(self) -> int | None:
        """Delete everything under the prefix; return how many entries, None if Redis is not there.

        Others' keys are left alone.
        """
        deleted = 0
        pattern = "".join(f"[{one}]" if one in "*?[" else one for one in self._prefix) + "*"
        try:
            names: list[bytes] = []
            async for name in self._client.scan_iter(match=pattern, count=1000):
                names.append(name)
                if len(names) >= 1000:
                    deleted += await self._delete(names)
                    names = []
            deleted += await self._delete(names)
        except TROUBLE as error:
            self._failed("clearing", error)
            return None
        return deleted

    async def close(self) -> None:
        """Write what waits, as far as that goes quickly, and close the connections."""
        self._questions.clear()
        for task in self._rounds:
            task.cancel()
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=WRITE_TIMEOUT_S)
            self._writer.cancel()
        await self._client.aclose()

    def _name(self, key: bytes) -> str:
        return self._prefix + key.hex()

    def _ask_soon(self, _ended: object = None) -> None:
        """When all that arrived in this turn of the event loop is there: questions that come
        together travel together, and so do those that come while every connection is busy.
        """
        if not self._asking:
            self._asking = True
            asyncio.get_running_loop().call_soon(self._ask)

    def _ask(self) -> None:
        """Use the connections that are free, for questions that somebody still asks."""
        self._asking = False
        while self._questions and len(self._rounds) < self._most_rounds:
            together: list[_Question] = []
            texts = 0
            while self._questions and texts < MOST_AT_ONCE:
                if not (question := self._questions.popleft()).answer.done():
                    together.append(question)
                    texts += len(question.keys)
            if not together:
                return
            task = asyncio.create_task(self._round(together))
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)
            task.add_done_callback(self._ask_soon)  # its connection is free for what came meanwhile

    async def _round(self, together: Sequence[_Question]) -> None:
        """One round trip: who still waits gets an answer, also when there is none."""
        started = time.monotonic()
        names = [self._name(key) for each in together for key in each.keys]
        values: Values | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                values = await self._get(names)
        except TROUBLE as error:
            self._failed("reading", error)
        else:
            self._breaker.succeeded()
            self._looked_up(time.monotonic() - started)
        rest = iter(values or ())
        for each in together:
            answer = None if values is None else list(islice(rest, len(each.keys)))
            if not each.answer.done():
                each.answer.set_result(answer)

    async def _get(self, names: list[str]) -> Values:
        if isinstance(self._client, RedisCluster):  # keys of a request are on many nodes
            found = await self._client.mget_nonatomic(names)
        else:
            found = await self._client.mget(names)
        return cast("Values", found)

    async def _delete(self, names: Sequence[bytes]) -> int:
        pipeline = self._pipeline()
        for name in names:  # the cluster's own `unlink` is for keys of one slot
            pipeline.execute_command("UNLINK", name)
        return sum(await pipeline.execute()) if names else 0

    async def _write(self) -> None:
        """Write until nothing waits any more."""
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(MOST_AT_ONCE, len(self._queue)))]
            size = sum(len(value) for _, value in batch)
            self.queued_bytes -= size
            if not self._breaker.admits(time.monotonic()):
                self.counts.unwritten += len(batch)
                continue
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    answers = await self._set(batch)
            except TROUBLE as error:
                self._failed("writing", error)
                self.counts.unwritten += len(batch)
                continue
            self._breaker.succeeded()
            refusals = [answer for answer in answers if isinstance(answer, Exception)]
            self.counts.refused += len(refusals)
            self.counts.written += len(batch) - len(refusals)
            self.counts.written_bytes += 0 if refusals else size
            if refusals and not self._told_refused:
                log.warning("Redis refuses to keep vectors: %s", refusals[0])
            self._told_refused = bool(refusals)

    async def _set(self, batch: Sequence[tuple[bytes, bytes]]) -> list[Any]:
        pipeline = self._pipeline()
        for key, value in batch:
            pipeline.set(self._name(key), value, px=self._ttl_ms)
        return cast("list[Any]", await pipeline.execute(raise_on_error=False))

    def _pipeline(self) -> Any:
        if isinstance(self._client, RedisCluster):
            return self._client.pipeline()
        return self._client.pipeline(transaction=False)

    def _failed(self, doing: str, error: Exception) -> None:
        if self._breaker.failed(time.monotonic()):
            reason = str(error) or type(error).__name__
            told = "Redis is left alone for now, requests go on without: %s: %s"
            log.warning(told, doing, reason)


def open_redis(
    settings: CacheSettings, *, looked_up: Callable[[float], None] = ignored
) -> RedisTier:
    """The tier that the settings name; connects when it is needed. Raises SettingError."""
    url = settings.redis_url or ""
    options: dict[str, Any] = {
        "username": settings.redis_user,
        "password": _password(settings),
        "max_connections": settings.redis_connections + 2,  # one to write, one to clear
        "socket_connect_timeout": settings.redis_timeout_s,
        "socket_timeout": WRITE_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }
    if urlsplit(url).scheme == "rediss" and settings.redis_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.redis_ca_file)
    client: Redis | RedisCluster
    try:
        if settings.redis_cluster:
            del options["retry_on_error"]
            client = RedisCluster.from_url(url, **options)
        else:
            client = Redis.from_url(url, **options)
    except (RedisError, ValueError) as error:
        raise SettingError(f"cache.redis_url: {error}") from error
    return RedisTier(client, settings, looked_up=looked_up)


def _password(settings: CacheSettings) -> str | None:
    path = settings.redis_password_file
    if path is None:
        return None
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cache.redis_password_file: {path} can't be read: {error}") from error
    if not password:
        raise SettingError(f"cache.redis_password_file: {path} holds no password")
    return password
