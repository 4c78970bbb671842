"""Redis as it is operated: it fails over, closes idle connections, changes its password, answers
oddly. Against real servers where they are installed, and against one that answers what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedfleet.cache.breaker import FAILURES_TO_OPEN, State
from embedfleet.cache.entry import pack, sealed
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.redis import RedisTier, open_redis
from embedfleet.cache.tiers import VectorCache
from embedfleet.runtime.settings import CacheSettings
from embedfleet.vocabulary import SettingError
from tests.cache.redis_server import RedisServer, redis_server
from tests.loops import settle

WIDTH = 8
KEYS = [bytes([number]) * 32 for number in range(4)]
VECTOR = np.full(WIDTH, WIDTH**-0.5, np.float32)
VALUE = sealed(KEYS[0], pack(VECTOR, 3, truncated=False))


@contextlib.asynccontextmanager
async def tier(**options: Any) -> AsyncIterator[RedisTier]:
    # A loaded machine may take longer than production should wait.
    given: dict[str, Any] = {"redis_timeout_s": 10.0, "redis_prefix": "test:"}
    opened = open_redis(CacheSettings(**(given | options)))
    try:
        yield opened
    finally:
        await opened.close()


async def kept(remote: RedisTier, key: bytes = KEYS[0], *, within_s: float = 120.0) -> None:
    """Write until Redis has it."""
    async with asyncio.timeout(within_s):
        before = remote.counts.written
        while remote.counts.written == before:
            remote.store(key, VALUE)
            await asyncio.sleep(0.1)


# -- where it is said to be -----------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"redis_url": "redis://127.0.0.1:1/0"},
        {"redis_url": "redis://[::1]:1/1"},
        {"redis_url": "rediss://127.0.0.1:1/0"},
        {"redis_url": "unix:///dev/null"},
        {"redis_url": "unix:///dev/null?db=1"},
        {"redis_url": "redis://127.0.0.1:1/0", "redis_cluster": True},
        {"redis_url": "rediss://127.0.0.1:1/0", "redis_cluster": True},
        {"redis_url": "redis://mymaster/0", "redis_sentinels": ("127.0.0.1:1",)},
        {"redis_url": "rediss://mymaster/0", "redis_sentinels": ("127.0.0.1:1",)},
    ],
    ids=lambda given: " ".join(map(str, given.values())),
)
async def test_a_connection_can_be_made_from_every_form_of_address(given: dict[str, Any]) -> None:
    """One that is refused by the system, for nothing is there; not one that can't be made."""
    async with tier(**given, redis_timeout_s=0.5) as remote:
        for _ in range(FAILURES_TO_OPEN):
            assert await remote.fetch(KEYS[:1]) is None
        assert set(remote.counts.failures) <= {"connection", "timeout", "no_node", "no_primary"}


def test_an_option_that_no_connection_has_is_refused_at_the_start() -> None:
    settings = CacheSettings(redis_url="redis://127.0.0.1:6379/0?keepalife=1")
    with pytest.raises(SettingError, match=r"cache\.redis_url: there is no option keepalife"):
        open_redis(settings)


# -- odd answers ----------------------------------------------------------------------------

Answer = Callable[[bytes, int], bytes]
"""What is sent for a command, by its name and its number of keys."""


@contextlib.asynccontextmanager
async def speaking(answer: Answer) -> AsyncIterator[str]:
    """A server that reads Redis' protocol and answers whatever it is told."""
    meetings: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    words = int((await reader.readuntil(b"\r\n"))[1:])
                    command = [await word(reader) for _ in range(words)]
                    name = command[0].upper()
                    known = name in {b"MGET", b"SET", b"UNLINK", b"CLUSTER"}
                    writer.write(answer(name, words - 1) if known else b"+OK\r\n")
                    await writer.drain()
        finally:
            writer.transport.abort()

    async def word(reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readuntil(b"\r\n"))[1:])
        return (await reader.readexactly(length + 2))[:-2]

    writers: list[asyncio.StreamWriter] = []

    def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        meetings.add(asyncio.create_task(meet(reader, writer)))

    server = await asyncio.start_server(met, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        for meeting in meetings:
            meeting.cancel()
        await asyncio.gather(*meetings, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()


ODD: dict[str, Answer] = {
    "fewer values": lambda _, keys: b"*%d\r\n" % (keys - 1) + b"$-1\r\n" * (keys - 1),
    "more values": lambda _, keys: b"*%d\r\n" % (keys + 1) + b"$-1\r\n" * (keys + 1),
    "numbers": lambda _, keys: b"*%d\r\n" % keys + b":7\r\n" * keys,
    "errors in their place": lambda _, keys: b"*%d\r\n" % keys + b"-ERR shard down\r\n" * keys,
    "one error among them": lambda _, keys: (
        b"*%d\r\n" % keys + b"-ERR shard down\r\n" + b"$-1\r\n" * (keys - 1)
    ),
    "lists in lists": lambda _, keys: b"*%d\r\n" % keys + b"*1\r\n$-1\r\n" * keys,
    "one string": lambda *_: b"$3\r\nabc\r\n",
    "one number": lambda *_: b":1\r\n",
    "nothing": lambda *_: b"*-1\r\n",
    "an error": lambda *_: b"-LOADING not yet\r\n",
    "no access": lambda *_: b"-NOPERM no\r\n",
    "a list of two thousand million": lambda *_: b"*2147483647\r\n",
    "a string of half a gibibyte": lambda *_: b"$536870911\r\nx",
    "lists without an end": lambda *_: b"*1\r\n" * 10_000,
    "no protocol": lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "other vectors": lambda _, keys: (
        b"*%d\r\n" % keys + b"$%d\r\n%b\r\n" % (len(VALUE) - 1, VALUE[:-1]) * keys
    ),
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_answer_is_a_miss_and_nothing_else(odd: str) -> None:
    """Whatever it is: no request fails by it, and none waits long."""
    async with speaking(ODD[odd]) as url, tier(redis_url=url, redis_timeout_s=0.3) as remote:
        cache = VectorCache(MemoryTier(2**20), remote)
        async with asyncio.timeout(60):
            for _ in range(3):
                assert await cache.fetch(KEYS, WIDTH) == [None] * len(KEYS)
            remote.store(KEYS[0], VALUE)
            while remote.counts.unwritten + remote.counts.refused < 1:
                await asyncio.sleep(0.01)
        assert remote.counts.written == 0


async def test_writes_that_go_well_say_nothing_of_reads() -> None:
    """A Redis that takes vectors and gives none would else hold each request up, for ever."""

    def answer(name: bytes, _keys: int) -> bytes:
        return b"+OK\r\n" if name == b"SET" else b"-ERR no\r\n"

    async with speaking(answer) as url, tier(redis_url=url) as remote:
        for _ in range(FAILURES_TO_OPEN):
            await remote.fetch(KEYS)
            await kept(remote)
        assert remote.state is State.OPEN
        assert remote.writing is State.CLOSED
        assert remote.counts.failures["refused"] == FAILURES_TO_OPEN


async def test_refused_writes_open_the_breaker_of_writes_alone() -> None:
    def answer(name: bytes, keys: int) -> bytes:
        full = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        return b"*%d\r\n" % keys + b"$-1\r\n" * keys if name == b"MGET" else full

    async with speaking(answer) as url, tier(redis_url=url) as remote:
        async with asyncio.timeout(60):
            while remote.writing is State.CLOSED:
                remote.store(KEYS[0], VALUE)
                await remote.fetch(KEYS)
        assert remote.state is State.CLOSED
        assert remote.counts.failures["full"] == FAILURES_TO_OPEN


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0, 2.0])
async def test_a_value_whose_checksum_is_right_and_whose_vector_is_none_is_a_miss(
    number: float,
) -> None:
    """Who may write to Redis can make up a checksum; not a vector that JSON has no word for."""
    vector = np.full(WIDTH, number, np.float32)
    value = sealed(KEYS[0], pack(vector, 3, truncated=False))

    def answer(_name: bytes, _keys: int) -> bytes:
        return b"*1\r\n$%d\r\n%b\r\n" % (len(value), value)

    async with speaking(answer) as url, tier(redis_url=url) as remote:
        cache = VectorCache(MemoryTier(2**20), remote)
        assert await cache.fetch(KEYS[:1], WIDTH) == [None]
        assert cache.counts.rejected == 1


async def test_a_cluster_of_which_no_node_is_there_is_left_alone() -> None:
    async with tier(
        redis_url="redis://127.0.0.1:9/0", redis_cluster=True, redis_timeout_s=0.5
    ) as remote:
        for _ in range(FAILURES_TO_OPEN):
            assert await remote.fetch(KEYS) is None
        assert remote.state is State.OPEN
        assert await remote.clear() is None


CROSS_SLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
MOVED = b"-MOVED 7365 10.0.0.7:6379\r\n"


@pytest.mark.parametrize(
    ("answer", "options", "told"),
    [
        (CROSS_SLOT, {}, "reading: Keys in request .* set cache.redis_cluster"),
        (MOVED, {}, "reading: 7365 10.0.0.7:6379 .* set cache.redis_cluster"),
        (
            b"-ERR no clusters here\r\n",
            {"redis_cluster": True},
            "no clusters here|not be connected",
        ),
        (b"-NOAUTH Authentication required.\r\n", {"password": "x"}, "Authentication required"),
    ],
    ids=["a node of a cluster", "a moved slot", "no cluster", "a password"],
)
async def test_what_redis_refuses_is_one_line_of_the_log(
    answer: bytes,
    options: dict[str, Any],
    told: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if options.pop("password", None):
        (tmp_path / "password").write_text("x")
        options = {"redis_password_file": tmp_path / "password"}
    async with speaking(lambda *_: answer) as url, tier(redis_url=url, **options) as remote:
        for _ in range(FAILURES_TO_OPEN):
            assert not any(await remote.fetch(KEYS) or ())
        assert remote.state is State.OPEN
    (line,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert re.search(told, line.getMessage())
    assert line.exc_info is None


async def test_deletions_come_before_what_is_written() -> None:
    """And what waited to be written of these keys is not."""
    told: list[bytes] = []

    def answer(name: bytes, _keys: int) -> bytes:
        told.append(name)
        return b":1\r\n" if name == b"UNLINK" else b"+OK\r\n"

    async with speaking(answer) as url, tier(redis_url=url) as remote:
        remote.store(KEYS[0], VALUE)
        remote.store(KEYS[1], VALUE)
        remote.forget([KEYS[0]])
        async with asyncio.timeout(60):
            while remote.counts.deleted + remote.counts.written < 2:
                await asyncio.sleep(0.01)
        assert told == [b"UNLINK", b"SET"]
        assert remote.queued_bytes == 0


# -- real servers ---------------------------------------------------------------------------


class Name:
    """A name of the network that can be pointed elsewhere: connections stay where they are."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def known(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            for pipe in self._pipes:
                pipe.cancel()
            await asyncio.gather(*self._pipes, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(far_writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._pipes.add(asyncio.create_task(self._pipe(source, target)))

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        finally:
            target.transport.abort()


@pytest.mark.slow
async def test_after_a_failover_the_new_primary_is_written_to(tmp_path: Path) -> None:
    """The old one lives on as a replica; the name points to the new one."""
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
    with redis_server(tmp_path / "one") as one, redis_server(tmp_path / "two") as two:
        name = Name(one.port)
        async with name.known() as url, tier(redis_url=url) as remote:
            await kept(remote)
            name.port = two.port
            one.tell("replicaof", "127.0.0.1", str(two.port))
            await kept(remote, KEYS[1])
            assert remote.counts.failures["read_only"] >= 1
            assert two.tell("exists", "test:" + KEYS[1].hex()) == "1"


@pytest.mark.slow
async def test_after_the_file_of_a_socket_was_moved_the_new_primary_is_written_to(
    tmp_path: Path,
) -> None:
    """The old one is gone; what it held its copy holds, and is found."""
    sockets = [tmp_path / place / "socket" for place in ("one", "two")]
    for each in sockets:
        each.parent.mkdir()
    served = [(each.parent, "--unixsocket", str(each)) for each in sockets]
    with redis_server(*served[0]) as one, redis_server(*served[1]) as two:
        two.tell("replicaof", "127.0.0.1", str(one.port))
        name = tmp_path / "name"
        name.symlink_to(sockets[0])
        async with tier(redis_url=f"unix://{name}") as remote:
            await kept(remote)
            await linked(two)
            one.stop()
            two.tell("replicaof", "no", "one")
            (tmp_path / "new").symlink_to(sockets[1])
            (tmp_path / "new").replace(name)
            await kept(remote, KEYS[1], within_s=120)
            assert two.tell("exists", "test:" + KEYS[0].hex(), "test:" + KEYS[1].hex()) == "2"
            assert set(remote.counts.failures) <= {"connection"}


@pytest.mark.slow
async def test_the_primary_is_the_one_that_sentinels_name(tmp_path: Path) -> None:
    """Also after they have made another one of it."""
    for place in ("one", "two", "sentinel"):
        (tmp_path / place).mkdir()
    with redis_server(tmp_path / "one") as one, redis_server(tmp_path / "two") as two:
        two.tell("replicaof", "127.0.0.1", str(one.port))
        config = tmp_path / "sentinel" / "sentinel.conf"
        config.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {one.port} 1\n"
            "sentinel down-after-milliseconds mymaster 3000\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        with redis_server(tmp_path / "sentinel", config="sentinel.conf") as watch:
            given = {"redis_url": "redis://mymaster/0"}
            async with tier(**given, redis_sentinels=(f"127.0.0.1:{watch.port}",)) as remote:
                await kept(remote)
                await linked(two)
                one.stop()
                await kept(remote, KEYS[1], within_s=120)
            gc.collect()  # a connection that was left open would complain, and fail the test
            assert two.tell("exists", "test:" + KEYS[1].hex()) == "1"


async def linked(server: RedisServer) -> None:
    """Wait until a replica follows its primary."""
    async with asyncio.timeout(120):
        while "master_link_status:up" not in server.tell("info", "replication"):
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_connection_that_was_closed_while_idle_costs_nothing(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with tier(redis_url=server.url) as remote:
            await kept(remote)
            assert await remote.fetch(KEYS[:1]) == [VALUE]
            for _ in range(3):
                server.tell("client", "kill", "type", "normal", "skipme", "yes")
                await settle(0.2)
                assert await remote.fetch(KEYS[:1]) == [VALUE]
            assert remote.counts.unasked == 0
            assert not remote.counts.failures


@pytest.mark.slow
async def test_a_new_password_needs_no_restart(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("first\n")
    with redis_server(tmp_path, "--requirepass", "first") as server:
        async with tier(redis_url=server.url, redis_password_file=password) as remote:
            await kept(remote)
            server.tell("-a", "first", "config", "set", "requirepass", "second")
            server.tell("-a", "second", "client", "kill", "type", "normal", "skipme", "yes")
            await asyncio.sleep(0.1)
            assert await remote.fetch(KEYS[:1]) is None
            assert remote.counts.failures["password"] >= 1
            password.write_text("second\n")
            assert await remote.fetch(KEYS[:1]) == [VALUE]
