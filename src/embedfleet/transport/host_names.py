"""Resolves host names, so that one whose name server does not answer delays no other one.

The system's resolver can't be cancelled, and waits for tens of seconds. An event loop has a few
threads for it (uvloop two), which such names would hold, and not even `localhost` was resolved.
So each name has a thread of its own while it is resolved, and one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

Found: TypeAlias = Sequence[tuple[int, str]]
"""Address families and addresses, best first."""

LookUp: TypeAlias = Callable[[str, int], Sequence[tuple[Any, ...]]]
"""As `socket.getaddrinfo`."""

Connected = TypeVar("Connected", bound=asyncio.BaseProtocol)


class HostNames:
    """What is being resolved now. Of one event loop."""

    def __init__(self, look_up: LookUp | None = None) -> None:
        """`look_up` blocks, and raises OSError or UnicodeError: the system's unless given."""
        self._look_up = look_up or _system
        self._pending: dict[tuple[str, int], asyncio.Future[Found]] = {}

    async def addresses(self, host: str, port: int) -> Found:
        """The addresses of a host, of which an address is its own. Raises OSError.

        Who is cancelled leaves the thread behind; who asks next waits for the same one.
        """
        if (family := family_of(host)) is not None:
            return [(family, host)]
        key = (host, port)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = self._begin(key)
        await asyncio.wait({pending})
        return pending.result()

    async def connect(
        self,
        protocol: Callable[[], Connected],
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        timeout_s: float,
    ) -> Connected:
        """The protocol of a connection to the first of a host's addresses that takes one. Raises
        OSError.
        """
        loop = asyncio.get_running_loop()
        late, why = f"{host} was not resolved", OSError(f"{host} has no address")
        try:
            async with asyncio.timeout(timeout_s):
                found = await self.addresses(host, port)
                late = "no connection"
                for _, address in found:
                    try:
                        _, connection = await loop.create_connection(
                            protocol,
                            address,
                            port,
                            ssl=tls,
                            server_hostname=None if tls is None else host,
                        )
                    except OSError as error:
                        why = error
                    else:
                        return connection
        except TimeoutError as error:
            raise TimeoutError(f"{late} within {timeout_s:.3g} s") from error
        raise why

    def _begin(self, key: tuple[str, int]) -> asyncio.Future[Found]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()

        def end(found: Found, error: OSError | None) -> None:
            del self._pending[key]
            if error is None:
                future.set_result(found)
            else:
                future.set_exception(error)
                future.exception()  # it is retrieved, though all may have gone who asked

        def run() -> None:
            found: Found = ()
            failed: OSError | None = OSError(f"{key[0]!a} is not a host name")
            try:
                found, failed = _read(self._look_up(*key)), None
            except OSError as error:
                failed = error
            except ValueError:
                pass  # as UnicodeError, for labels that are empty or too long
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(end, found, failed)

        try:
            # A daemon: no process waits at its end for a name server.
            threading.Thread(target=run, name=f"resolving {key[0]}", daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started to resolve a name") from error
        return future


def family_of(host: str) -> int | None:
    """The family of an address, which may have a zone; None of a name."""
    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _system(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _read(found: Sequence[tuple[Any, ...]]) -> Found:
    """Without repetitions, in the order of the resolver."""
    return list(dict.fromkeys((int(each[0]), _with_zone(each[4])) for each in found))


def _with_zone(address: tuple[Any, ...]) -> str:
    """Link-local addresses are of no use without theirs."""
    host, zone = str(address[0]), address[3] if len(address) > 3 else 0
    return f"{host}%{zone}" if zone and "%" not in host else host
