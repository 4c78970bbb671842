"""The shared cache tier: entries in Redis, shared by gateways, which survive restarts.

Redis can neither delay a request for long nor fail it: reads take one round trip with a time-out,
writes happen in the background within a bound of bytes, and two circuit breakers stop reads and
writes while they fail. Replies are untrusted; a malformed one is a miss. The client library is
imported here, so this module is imported only where Redis is configured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import MasterNotFoundError

from embedfleet.cache.breaker import Breaker, State
from embedfleet.cache.redis_client import WRITE_TIMEOUT_S, Client, close_client, open_client
from embedfleet.runtime.settings import CacheSettings

log = logging.getLogger(__name__)

REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (ReadOnlyError, "read_only"),
    ((AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError), "password"),
    (OutOfMemoryError, "full"),
    (MasterNotFoundError, "no_primary"),
    (RedisClusterException, "no_node"),
    ((TimeoutError, RedisTimeoutError), "timeout"),
    ((RedisConnectionError, OSError), "connection"),
    (RedisError, "refused"),
)
"""What failures are called in the metrics, the first that fits; any other is an odd `answer`."""

Result = TypeVar("Result")

Values: TypeAlias = list[bytes | None]
"""In the order of their keys; None where there is none."""

MOST_AT_ONCE = 128
"""Entries written in one pipeline, or read in one answer beyond a request's own: half a MiB of
1,024 dimensions, a few milliseconds."""

MOST_DOOMED = 1 << 18
"""Keys that wait to be deleted; 24 MiB."""

AGAIN_S = 1.0
"""After this, deletions that could not be made are tried again."""


class OddAnswerError(Exception):
    """A reply that does not match the request."""


EXPECTED = (RedisError, RedisClusterException, OSError, OddAnswerError)
"""What Redis and the network cause. Anything else is a bug."""


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
    odd: int = 0
    """Values that were none: errors, numbers or lists in the place of a vector."""
    deleted: int = 0
    """Keys that were deleted because the replica behind them is not trusted any more."""
    undeleted: int = 0
    """Those that could not be: more waited than there is room for."""
    failures: Counter[str] = field(default_factory=Counter)
    """Rounds, writes and deletions that failed, by their reason."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """The keys of one request, and the values that it waits for."""

    keys: Sequence[bytes]
    answer: asyncio.Future[Values | None]


def ignored(_seconds: float) -> None:
    """Default observer: does nothing."""


class RedisTier:
    """Entries by key, in a Redis or a cluster."""

    def __init__(
        self,
        client: Client,
        settings: CacheSettings,
        *,
        looked_up: Callable[[float], None] = ignored,
    ) -> None:
        """`looked_up` is called with the seconds that each lookup took."""
        self._client = client
        self._prefix = settings.redis_prefix
        self._ttl_ms = round(settings.redis_ttl_s * 1000)
        self._timeout_s = settings.redis_timeout_s
        self._most_rounds = settings.redis_connections
        self._most_queued = settings.redis_queued_bytes
        self._looked_up = looked_up
        self._breaker = Breaker()
        """Of reading."""
        self._write_breaker = Breaker()
        self._questions: deque[_Question] = deque()
        self._rounds: set[asyncio.Task[None]] = set()
        self._asking = False
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self.queued_bytes = 0
        self._doomed: dict[bytes, None] = {}
        """Keys to be deleted before anything else is written."""
        self._writer: asyncio.Task[None] | None = None
        self.counts = RedisCounts()

    @property
    def state(self) -> State:
        """Whether it is read from."""
        return self._breaker.state(time.monotonic())

    @property
    def writing(self) -> State:
        """Whether it is written to."""
        return self._write_breaker.state(time.monotonic())

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
        if full or self.writing is State.OPEN:
            self.counts.unwritten += 1
            return
        self._queue.append((key, value))
        self.queued_bytes += len(value)
        self._write_soon()

    def forget(self, keys: Collection[bytes]) -> None:
        """Delete soon, whatever is in the way: nothing is written before, and what waits to be
        written of these is not.
        """
        for key in keys:
            self._doomed[key] = None
        kept = deque(pair for pair in self._queue if pair[0] not in self._doomed)
        self.counts.unwritten += len(self._queue) - len(kept)
        self._queue = kept
        self.queued_bytes = sum(len(value) for _, value in kept)
        over = len(self._doomed) - MOST_DOOMED
        if over > 0:
            self.counts.undeleted += over
            self._doomed = dict.fromkeys(islice(self._doomed, MOST_DOOMED))
        self._write_soon()

    async def clear(self) -> int | None:
        """Delete everything under the prefix; return how many entries, None if Redis is not there.

        Others' keys are left alone.
        """
        return await self._tried("clearing", self._write_breaker, None, self._delete_all())

    async def close(self) -> None:
        """Write what waits, as far as that goes quickly, and close the connections."""
        self._questions.clear()
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=WRITE_TIMEOUT_S)
        ended = [*self._rounds, *([self._writer] if self._writer is not None else [])]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        await close_client(self._client)

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
        """Use free connections for lookups that are still awaited."""
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
        values = await self._tried("reading", self._breaker, self._timeout_s, self._values(names))
        if values is not None:
            self._breaker.succeeded()
            self._looked_up(time.monotonic() - started)
        rest = iter(values or ())
        for each in together:
            answer = None if values is None else list(islice(rest, len(each.keys)))
            if not each.answer.done():
                each.answer.set_result(answer)

    async def _tried(
        self, doing: str, breaker: Breaker, timeout_s: float | None, work: Awaitable[Result]
    ) -> Result | None:
        """What Redis answers; None on failure, which the breaker counts and the log reports."""
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except Exception as error:  # noqa: BLE001  of a malformed reply the library raises anything
            await self._failed(doing, error, breaker)
            return None

    async def _get(self, names: list[str]) -> object:
        if isinstance(self._client, RedisCluster):  # keys of a request are on many nodes
            return await self._client.mget_nonatomic(names)
        return await self._client.mget(names)

    async def _values(self, names: list[str]) -> Values:
        """The values of these names: what is no value is none.

        Raises OddAnswerError when the reply is no list of as many, or the error that all of it is.
        """
        found, asked = await self._get(names), len(names)
        if not isinstance(found, list) or len(found) != asked:
            raise OddAnswerError(
                f"{asked} values were requested, and the reply is not a list of that many"
            )
        errors = [each for each in found if isinstance(each, Exception)]
        if errors and len(errors) == asked:
            raise errors[0]
        values = [each if isinstance(each, bytes) else None for each in found]
        self.counts.odd += values.count(None) - found.count(None)
        return values

    async def _delete_all(self) -> int:
        """Delete everything under the prefix; return how many entries that were."""
        pattern = "".join(f"[{one}]" if one in "*?[" else one for one in self._prefix) + "*"
        deleted = 0
        names: list[bytes] = []
        async for name in self._client.scan_iter(match=pattern, count=1000):
            names.append(name)
            if len(names) >= 1000:
                deleted += await self._delete(names)
                names = []
        return deleted + await self._delete(names)

    async def _delete(self, names: Sequence[bytes | str]) -> int:
        pipeline = self._pipeline()
        for name in names:  # the cluster's own `unlink` is for keys of one slot
            pipeline.execute_command("UNLINK", name)
        return sum(map(int, await pipeline.execute())) if names else 0

    def _write_soon(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Delete and write until nothing waits any more."""
        while self._doomed or self._queue:
            if not self._write_breaker.admits(time.monotonic()):
                self._leave_out(len(self._queue))
                if self._doomed:
                    await asyncio.sleep(AGAIN_S)
            elif self._doomed:
                await self._delete_some()
            else:
                await self._write_some()

    def _leave_out(self, entries: int) -> None:
        for _ in range(entries):
            self.queued_bytes -= len(self._queue.popleft()[1])
        self.counts.unwritten += entries

    async def _delete_some(self) -> None:
        keys = list(islice(self._doomed, MOST_AT_ONCE))
        work = self._delete([self._name(key) for key in keys])
        if await self._tried("deleting", self._write_breaker, WRITE_TIMEOUT_S, work) is None:
            await asyncio.sleep(AGAIN_S)
            return
        self._write_breaker.succeeded()
        self.counts.deleted += len(keys)
        for key in keys:
            self._doomed.pop(key, None)

    async def _write_some(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(MOST_AT_ONCE, len(self._queue)))]
        size = sum(len(value) for _, value in batch)
        self.queued_bytes -= size
        work = self._set(batch)
        answers = await self._tried("writing", self._write_breaker, WRITE_TIMEOUT_S, work)
        if answers is None:
            self.counts.unwritten += len(batch)
            return
        refusals = [answer for answer in answers if answer is not True]
        self.counts.refused += len(refusals)
        self.counts.written += len(batch) - len(refusals)
        self.counts.written_bytes += 0 if refusals else size
        if refusals:
            why = refusals[0]
            odd = OddAnswerError("unexpected reply to a write")
            failure = why if isinstance(why, Exception) else odd
            await self._failed("writing", failure, self._write_breaker)
        else:
            self._write_breaker.succeeded()

    async def _set(self, batch: Sequence[tuple[bytes, bytes]]) -> list[Any]:
        pipeline = self._pipeline()
        for key, value in batch:
            pipeline.set(self._name(key), value, px=self._ttl_ms)
        answers = await pipeline.execute(raise_on_error=False)
        if not isinstance(answers, list) or len(answers) != len(batch):
            raise OddAnswerError(
                f"{len(batch)} writes were answered by something else than a list of that many "
                "replies"
            )
        return answers

    def _pipeline(self) -> Any:
        if isinstance(self._client, RedisCluster):
            return self._client.pipeline()
        return self._client.pipeline(transaction=False)

    async def _failed(self, doing: str, error: Exception, breaker: Breaker) -> None:
        why = reason(error)
        self.counts.failures[why] += 1
        if breaker.failed(time.monotonic()):
            told = (str(error) or type(error).__name__)[:300]
            if isinstance(error, (ClusterCrossSlotError, MovedError)):
                told += " (it is a node of a cluster: set cache.redis_cluster)"
            log.warning(
                "pausing the use of Redis; requests continue without it: %s: %s",
                doing,
                told,
                exc_info=None if isinstance(error, EXPECTED) else error,
            )
        if why == "read_only" and not isinstance(self._client, RedisCluster):
            # It was the primary once. New connections find the one that is now, by its name or by
            # asking the Sentinels.
            with suppress(RedisError, OSError):
                await self._client.connection_pool.disconnect()


def reason(error: BaseException) -> str:
    """What a failure is called in the metrics."""
    return next((name for kinds, name in REASONS if isinstance(error, kinds)), "answer")


def open_redis(
    settings: CacheSettings, *, looked_up: Callable[[float], None] = ignored
) -> RedisTier:
    """The tier that the settings name; connects when it is needed. Raises SettingError."""
    return RedisTier(open_client(settings), settings, looked_up=looked_up)
