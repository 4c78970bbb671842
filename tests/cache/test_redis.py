"""Redis keeps what gateways share; and whatever it does, requests go on. Against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedfleet.cache.breaker import FAILURES_TO_OPEN, State
from embedfleet.cache.memory import MemoryTier
from embedfleet.cache.redis import RedisTier, open_redis
from embedfleet.cache.tiers import VectorCache
from embedfleet.runtime.settings import CacheSettings
from embedfleet.vocabulary import SettingError
from tests.cache.redis_server import RedisServer, redis_server
from tests.fakes.asking import Asker
from tests.ports import free_port

pytestmark = pytest.mark.slow

PREFIX = "test:"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def tier(server: RedisServer, **options: Any) -> AsyncIterator[RedisTier]:
    given: dict[str, Any] = {"redis_url": server.url, "redis_prefix": PREFIX}
    # A loaded machine may take longer than production should wait.
    opened = open_redis(CacheSettings(**({"redis_timeout_s": 10.0} | given | options)))
    try:
        yield opened
    finally:
        await opened.close()


async def written(tier: RedisTier, texts: int) -> None:
    async with asyncio.timeout(120):
        while tier.counts.written + tier.counts.refused + tier.counts.unwritten < texts:
            await asyncio.sleep(0.01)


def gateway(place: Path, remote: RedisTier, memory_bytes: int = 2**20) -> Asker:
    return Asker(place / "model", VectorCache(MemoryTier(memory_bytes), remote))


async def test_what_one_gateway_computed_another_one_knows(
    server: RedisServer, tmp_path: Path
) -> None:
    async with tier(server) as one, tier(server) as other:
        miss = await gateway(tmp_path, one).ask(["a", "b"])
        await written(one, 2)
        second = gateway(tmp_path, other)
        hit = await second.ask(["b", "a"])
        assert hit.cache == "hit=2; miss=0"
        assert hit.vectors == miss.vectors[::-1]
        assert hit.tokens == miss.tokens
        assert (await second.ask("a")).cache == "hit=1; miss=0"
        assert second.cache is not None
        assert second.cache.counts.memory_hits == 1


async def test_all_texts_of_a_request_take_one_round_trip(
    server: RedisServer, tmp_path: Path
) -> None:
    async with tier(server) as remote:
        await gateway(tmp_path, remote).ask([f"text {n}" for n in range(64)])
        await written(remote, 64)
        server.tell("config", "resetstat")
        answer = await gateway(tmp_path, remote).ask([f"text {n}" for n in range(64)])
        assert answer.cache == "hit=64; miss=0"
        told = server.tell("info", "commandstats")
        assert "cmdstat_mget:calls=1," in told
        assert "cmdstat_get:" not in told


async def test_entries_have_a_prefix_and_an_end(server: RedisServer, tmp_path: Path) -> None:
    async with tier(server, redis_ttl_s=100.0) as remote:
        await gateway(tmp_path, remote).ask("a")
        await written(remote, 1)
    (name,) = server.tell("keys", "*").splitlines()
    assert name.startswith(PREFIX)
    assert 90 < int(server.tell("ttl", name)) <= 100


async def test_clearing_leaves_what_belongs_to_others(server: RedisServer, tmp_path: Path) -> None:
    server.tell("set", "other", "1")
    async with tier(server) as remote:
        asker = gateway(tmp_path, remote)
        await asker.ask([f"text {n}" for n in range(5)])
        await written(remote, 5)
        assert asker.cache is not None
        assert await asker.cache.clear() == (5, 5)
        assert (await asker.ask("text 1")).cache == "hit=0; miss=1"
    assert "other" in server.tell("keys", "*")


async def test_clearing_reading_and_writing_at_once_have_connections_enough(
    server: RedisServer,
) -> None:
    async with tier(server, redis_connections=1) as remote:
        remote.store(b"a" * 32, b"value")
        cleared, found = await asyncio.gather(remote.clear(), remote.fetch([b"b" * 32]))
        assert cleared in {0, 1}
        assert found == [None]
        await written(remote, 1)
        assert remote.counts.written == 1


@pytest.mark.parametrize("value", ["", "foreign", "EFV1" + "\0" * 300])
async def test_a_foreign_value_is_a_miss_and_counted(
    server: RedisServer, tmp_path: Path, value: str
) -> None:
    async with tier(server) as remote:
        await gateway(tmp_path, remote).ask("a")
        await written(remote, 1)
        (name,) = server.tell("keys", "*").splitlines()
        with contextlib.closing(open_socket(server)) as raw:
            raw.sendall(resp("SET", name, value))
            assert raw.recv(100) == b"+OK\r\n"
        second = gateway(tmp_path, remote)
        answer = await second.ask("a")
        assert (answer.cache, answer.vectors) == ("hit=0; miss=1", [second.right("a")])
        assert second.cache is not None
        assert second.cache.counts.rejected == 1


async def test_a_key_of_another_kind_is_a_miss(server: RedisServer, tmp_path: Path) -> None:
    async with tier(server) as remote:
        await gateway(tmp_path, remote).ask("a")
        await written(remote, 1)
        (name,) = server.tell("keys", "*").splitlines()
        server.tell("del", name)
        server.tell("lpush", name, "x")
        assert (await gateway(tmp_path, remote).ask("a")).status == 200


async def test_requests_go_on_while_redis_is_gone_and_use_it_when_it_is_back(
    server: RedisServer, tmp_path: Path
) -> None:
    async with tier(server) as remote:
        asker = gateway(tmp_path, remote, memory_bytes=0)
        server.stop()
        for number in range(2 * FAILURES_TO_OPEN):
            assert (await asker.ask(f"text {number}")).status == 200
        assert remote.state is State.OPEN
        server.start()
        async with asyncio.timeout(120):
            while (await asker.ask("again")).cache != "hit=1; miss=0":
                await asyncio.sleep(0.05)
        now: State = remote.state
        assert now is State.CLOSED


async def test_a_restart_in_between_costs_hits_and_nothing_else(
    server: RedisServer, tmp_path: Path
) -> None:
    async with tier(server) as remote:
        asker = gateway(tmp_path, remote, memory_bytes=0)
        await asker.ask("a")
        await written(remote, 1)
        server.stop()
        server.start()
        assert [(await asker.ask("a")).status for _ in range(5)] == [200] * 5


async def test_a_redis_that_hangs_is_not_waited_for(server: RedisServer, tmp_path: Path) -> None:
    async with tier(server, redis_timeout_s=0.02) as remote:
        asker = gateway(tmp_path, remote, memory_bytes=0)
        assert (await asker.ask("a")).status == 200
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(120):
                answers = [await asker.ask(f"text {n}") for n in range(2 * FAILURES_TO_OPEN)]
            assert {answer.status for answer in answers} == {200}
            assert remote.state is not State.CLOSED
        finally:
            server.process.send_signal(signal.SIGCONT)


async def test_a_full_redis_refuses_writes_and_still_answers(
    server: RedisServer, tmp_path: Path
) -> None:
    async with tier(server) as remote:
        asker = gateway(tmp_path, remote, memory_bytes=0)
        await asker.ask("known")
        await written(remote, 1)
        server.tell("config", "set", "maxmemory", "1")
        assert (await asker.ask("new")).status == 200
        await written(remote, 2)
        assert (remote.counts.refused, remote.state) == (1, State.CLOSED)
        assert (await asker.ask("known")).cache == "hit=1; miss=0"


async def test_what_waits_to_be_written_is_bounded(server: RedisServer, tmp_path: Path) -> None:
    async with tier(server, redis_queued_bytes=1000) as remote:
        for number in range(10):
            remote.store(bytes([number]) * 32, b"x" * 300)
        assert remote.queued_bytes <= 1000
        await written(remote, 10)
        assert (remote.counts.written, remote.counts.unwritten) == (3, 7)


async def test_requests_that_come_together_share_a_round_trip(
    server: RedisServer, tmp_path: Path
) -> None:
    """And each gets the values of its own texts."""
    async with tier(server, redis_connections=1) as remote:
        asker = gateway(tmp_path, remote, memory_bytes=0)
        texts = [[f"text {n}", f"text {n + 1}"] for n in range(20)]
        await asker.ask([f"text {n}" for n in range(15)])
        await written(remote, 15)
        server.tell("config", "resetstat")
        answers = await asyncio.gather(*(asker.ask(each) for each in texts))
        for asked, answer in zip(texts, answers, strict=True):
            assert answer.vectors == [asker.right(text) for text in asked]
        assert answers[0].cache == "hit=2; miss=0"
        told = server.tell("info", "commandstats")
        assert "cmdstat_mget:calls=1," in told


async def test_a_password_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    with redis_server(tmp_path, "--requirepass", "secret") as server:
        async with tier(server, redis_password_file=tmp_path / "password") as remote:
            await gateway(tmp_path, remote).ask("a")
            await written(remote, 1)
            assert remote.counts.written == 1
        async with tier(server) as locked_out:
            answer = await gateway(tmp_path, locked_out).ask("a")
            assert (answer.status, answer.cache) == (200, "hit=0; miss=1")


async def test_a_connection_by_tls_checks_who_answers(tmp_path: Path) -> None:
    certificate(tmp_path)
    files = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]
    files += ["--tls-ca-cert-file", "cert.pem", "--tls-auth-clients", "no"]
    with redis_server(tmp_path, *files, "--port", "0", "--tls-port", "PORT") as server:
        url = f"rediss://localhost:{server.port}/0"
        async with tier(server, redis_url=url, redis_ca_file=tmp_path / "cert.pem") as remote:
            await gateway(tmp_path, remote).ask("a")
            await written(remote, 1)
            assert remote.counts.written == 1
        async with tier(server, redis_url=url) as distrusting:
            assert (await gateway(tmp_path, distrusting).ask("a")).cache == "hit=0; miss=1"


async def test_a_cluster_is_asked_at_all_its_nodes(tmp_path: Path) -> None:
    # By itself the nodes' own port is 10,000 above the clients', which may be no port.
    bus = ("--cluster-port", str(free_port()))
    with redis_server(tmp_path, "--cluster-enabled", "yes", *bus) as server:
        server.tell("cluster", "addslotsrange", "0", "16383")
        async with asyncio.timeout(120):
            while "cluster_state:ok" not in server.tell("cluster", "info"):
                await asyncio.sleep(0.1)
        async with tier(server, redis_cluster=True) as remote:
            texts = [f"text {n}" for n in range(20)]
            await gateway(tmp_path, remote).ask(texts)
            await written(remote, 20)
            asker = gateway(tmp_path, remote)
            answer = await asker.ask(texts)
            assert answer.cache == "hit=20; miss=0"
            assert answer.vectors == [asker.right(text) for text in texts]
            assert await remote.clear() == 20


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    settings = CacheSettings(
        redis_url="redis://localhost", redis_password_file=tmp_path / "missing"
    )
    with pytest.raises(SettingError, match=r"cache.redis_password_file: .*missing"):
        open_redis(settings)


def open_socket(server: RedisServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port))


def resp(*words: str) -> bytes:
    """A command as it goes over the wire; `redis-cli` takes no zero bytes."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def certificate(place: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        cwd=place,
        check=True,
        capture_output=True,
    )
