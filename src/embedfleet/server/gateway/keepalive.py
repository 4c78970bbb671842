"""TCP keepalive for connections to replicas.

A host that loses power closes nothing; without keepalive a call to it would occupy its replica's
window forever.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol

from aiohttp import AddrInfoType

SILENT_S = 30
"""Seconds until a silent host is given up."""

OPTIONS = {
    "TCP_KEEPIDLE": 15,  # seconds without traffic before the host is asked
    "TCP_KEEPINTVL": 5,  # seconds between two questions
    "TCP_KEEPCNT": 3,  # questions without an answer
    # Milliseconds; while something that was sent is not confirmed, no questions are asked.
    "TCP_USER_TIMEOUT": SILENT_S * 1000,
}
"""Options of Linux; other platforms have some of them and keep their own times for the rest."""


class Socket(Protocol):
    """What event loops give as a connection's socket."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(sock: Socket) -> None:
    """Have the kernel ask whether the host is still there: `SILENT_S` after its last word the
    connection is reset.
    """
    with suppress(OSError):  # some platforms refuse it where the other end has closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in OPTIONS.items():
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def watched_socket(address: AddrInfoType) -> socket.socket:
    """A socket for one result of `getaddrinfo`, as aiohttp asks for it."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    keep_alive(sock)
    return sock
