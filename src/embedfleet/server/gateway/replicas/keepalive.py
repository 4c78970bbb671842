"""TCP keepalive: a connection to a host that is gone ends."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol

SILENT_S = 30
"""Seconds until a silent host is given up: one that loses power closes nothing, and a call to it
would occupy its replica's window for ever."""

OPTIONS = {
    "TCP_KEEPIDLE": 15,  # seconds without traffic before the first probe
    "TCP_KEEPINTVL": 5,  # seconds between probes
    "TCP_KEEPCNT": 3,  # unanswered probes
    # Milliseconds; while sent data is unacknowledged, no probes are sent.
    "TCP_USER_TIMEOUT": SILENT_S * 1000,
}
"""Linux options; other platforms have some of them and use their own times for the rest."""


class Socket(Protocol):
    """What event loops give as a connection's socket."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def keep_alive(sock: Socket) -> None:
    """Enable TCP keepalive: the connection is reset `SILENT_S` after the host's last packet."""
    with suppress(OSError):  # some platforms refuse it where the other end has closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in OPTIONS.items():
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
