"""Ports for servers that must be told theirs before they run, or that come back at the same one.

A port that the kernel gives for the asking may be given to a connection of anybody as soon as it is
free again, and is not to be had then: a server that is killed and started again at it would fail. A
connection to such a port while nobody listens may even meet itself. These lie outside the range
that the kernel gives from; who takes no port without trying it finds them free.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Sequence
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000
HIGHEST = 65_535
_given: set[int] = set()
"""No port is given twice by one process."""


def free_port(hosts: Sequence[str] = ("127.0.0.1",)) -> int:
    """A port at which nobody listens at any of these addresses."""
    candidates = _outside()
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if port not in _given and _is_free(port, hosts):
            _given.add(port)
            return port
    raise OSError(f"no port is free at {', '.join(hosts)}")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


def _outside() -> list[int]:
    """Ports that the kernel gives to nobody who does not name them; all, if it gives every one."""
    first, last = map(int, RANGE.read_text().split()) if RANGE.exists() else (49_152, HIGHEST)
    ports = [each for each in range(LOWEST, HIGHEST + 1) if not first <= each <= last]
    return ports or list(range(LOWEST, HIGHEST + 1))


def _is_free(port: int, hosts: Sequence[str]) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            for host in hosts:
                stack.enter_context(socket.create_server((host, port)))
        except OSError:
            return False
    return True
