"""Names that are not resolved hold nobody up who asks for another one."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.transport.host_names import HostNames, family_of

Info = tuple[Any, ...]


def info(*addresses: str) -> list[Info]:
    """As `socket.getaddrinfo` answers."""
    return [(family_of(each), socket.SOCK_STREAM, 6, "", (each, 80)) for each in addresses]


class Resolver:
    """One that answers for some names, fails for some, and not at all for others until it may."""

    def __init__(self) -> None:
        self.answering = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: str, _port: int) -> list[Info]:
        self.asked.append(host)
        if host.startswith("hung"):
            self.answering.wait()
        if host.endswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host.endswith("odd"):
            raise UnicodeError
        return info("127.0.0.1", "127.0.0.1", "::1")


@given(hung=st.integers(0, 40), askers=st.integers(1, 3))
def test_any_number_of_names_may_hang_and_others_are_resolved(hung: int, askers: int) -> None:
    """Whoever asks for a name that is being resolved waits for the same thread."""
    resolver = Resolver()

    async def ask() -> None:
        names = HostNames(resolver)
        waiting = [
            asyncio.create_task(names.addresses(f"hung-{number}", 80))
            for number in range(hung)
            for _ in range(askers)
        ]
        await asyncio.sleep(0)
        right = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
        assert await names.addresses("well", 80) == right
        assert not any(task.done() for task in waiting)
        for task in waiting[::2]:
            task.cancel()
        resolver.answering.set()
        for found in await asyncio.gather(*waiting[1::2]):
            assert found == right
        assert len(resolver.asked) == hung + 1

    asyncio.run(ask())


async def test_a_name_that_failed_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    """Also where all who asked have gone meanwhile: nobody is told of it then."""
    resolver = Resolver()
    names = HostNames(resolver)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            with pytest.raises(OSError, match="not known"):
                await names.addresses("unknown", 80)
            with pytest.raises(OSError, match="'odd' is not a host name"):
                await names.addresses("odd", 80)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(names.addresses("hung-unknown", 80), 0.01)
        resolver.answering.set()
        with pytest.raises(OSError, match="not known"):
            await names.addresses("hung-unknown", 80)
    assert resolver.asked == ["unknown", "odd", "unknown", "odd", "hung-unknown"]
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "fe80::1%lo", "fe80::1%1"])
async def test_nobody_is_asked_for_an_address(address: str) -> None:
    resolver = Resolver()
    assert await HostNames(resolver).addresses(address, 80) == [(family_of(address), address)]
    assert not resolver.asked


async def test_a_connection_is_made_to_the_first_address_that_takes_one() -> None:
    """127.0.0.2 is this machine too, and nothing listens there."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made: list[asyncio.Protocol] = []

    def protocol() -> asyncio.Protocol:
        made.append(asyncio.Protocol())
        return made[-1]

    async def connected(*addresses: str) -> asyncio.Protocol:
        names = HostNames(lambda _host, _port: info(*addresses))
        return await names.connect(protocol, "replica", port, tls=None, timeout_s=60)

    async with server:
        assert await connected("127.0.0.2", "127.0.0.1") is made[-1]
        with pytest.raises(ConnectionRefusedError):
            await connected("127.0.0.2", "127.0.0.3")
        with pytest.raises(OSError, match="replica has no address"):
            await connected()


async def test_what_was_not_done_in_time_is_said() -> None:
    resolver = Resolver()
    with pytest.raises(TimeoutError, match=r"hung was not resolved within 0\.01 s"):
        await HostNames(resolver).connect(asyncio.Protocol, "hung", 80, tls=None, timeout_s=0.01)
    resolver.answering.set()


def test_a_process_ends_while_a_name_is_being_resolved() -> None:
    """It would have to be killed otherwise, after a stop that all requests were answered in."""
    program = """
import asyncio, threading
from embedfleet.transport.host_names import HostNames

async def ask():
    names = HostNames(lambda host, port: threading.Event().wait())
    try:
        await asyncio.wait_for(names.addresses("hung", 80), 0.01)
    except TimeoutError:
        print("stopped", flush=True)

asyncio.run(ask())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == "stopped\n"
    assert not ended.stderr
