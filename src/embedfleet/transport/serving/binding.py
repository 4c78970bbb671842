"""Listening sockets: TCP over IPv4 and IPv6, Unix sockets, several addresses and processes.

Processes that serve one address have a socket each, among which the kernel spreads connections
(SO_REUSEPORT); a Unix socket is shared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedfleet.runtime.settings.addresses import Place
from embedfleet.vocabulary import SetupError

BACKLOG = 2048

UNIX_MODE = 0o660
"""Who may connect to a Unix socket: its user and group, as PHP-FPM has it."""

TRIES = 5
"""How often a free port is looked for that is free at every address."""


_Address = tuple[Any, ...]
"""As sockets of its family take it: host and port first."""


class AddressTakenError(SetupError):
    """Something else listens there."""


def bind(host: str, port: int, setting: str = "--host and --port") -> socket.socket:
    """A listening socket; SetupError says what is wrong with the address. Port 0: any free one.

    `::` takes IPv4 as well, whatever the system's own default is. `setting` names what chooses
    another address.
    """
    place = Place(host, int(port))  # the system takes no subclass of it
    with _explained(place, setting):
        family, address = _resolved(place)[0]
        return _listening(_bound(family, address))


@contextlib.contextmanager
def listening(
    places: Sequence[Place], processes: int = 1, setting: str = "--host and --port"
) -> Iterator[list[list[socket.socket]]]:
    """For each process its sockets, one or more for every place; they are closed at the end, and
    the files of Unix sockets removed. Raises SetupError as `bind`.

    A name is listened on at all of its addresses. Port 0 is the same free one at every address.
    """
    with contextlib.ExitStack() as stack:
        for left in reversed(range(TRIES)):
            try:
                found = _all_bound(places, processes, setting)
                break
            except AddressTakenError:
                if not left or not any(each.path is None and not each.port for each in places):
                    raise
        for each in (one for process in found for one in process):
            stack.callback(each.close)
        for place in places:
            if place.path is not None:
                stack.callback(_remove, place.path, place.path.stat().st_ino)
        yield found


def _all_bound(places: Sequence[Place], processes: int, setting: str) -> list[list[socket.socket]]:
    found: list[list[socket.socket]] = [[] for _ in range(processes)]
    chosen = 0
    with contextlib.ExitStack() as undo:
        for place in places:
            with _explained(place, setting):
                if place.path is not None:
                    shared = _listening(_bound_file(place.path))
                    undo.callback(shared.close)
                    for each in found:
                        each.append(shared)
                    continue
                for family, address in _resolved(place._replace(port=place.port or chosen)):
                    first = _bound(family, address)
                    undo.callback(first.close)
                    chosen = first.getsockname()[1]
                    # Bound alone first: another service at the address is an error, and not a
                    # neighbour that is sent half of the connections.
                    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, processes > 1)
                    found[0].append(first)
                    for each in found[1:]:
                        each.append(_bound(family, first.getsockname(), shared=True))
                        undo.callback(each[-1].close)
                    for each in found:
                        _listening(each[-1])
        undo.pop_all()
    return found


@contextlib.contextmanager
def _explained(place: Place, setting: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = AddressTakenError if error.errno == errno.EADDRINUSE else SetupError
        raise kind(
            f"can't listen on {place}: {error.strerror or error}; choose another with {setting}"
        ) from error


def _resolved(place: Place) -> list[tuple[int, _Address]]:
    """The families and addresses that a host stands for; those that this machine lacks are left
    out, unless there is no other."""
    found: dict[tuple[int, _Address], None] = dict.fromkeys(
        (int(family), address)
        for family, *_, address in socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    if len(found) > 1:
        there = [each for each in found if _is_here(*each)]
        return there or list(found)
    return list(found)


def _is_here(family: int, address: _Address) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True


def _bound(family: int, address: _Address, *, shared: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        # Connections inherit it. asyncio's own loop does not set it, as they do not say that they
        # are TCP; without it the second of two writes waits for an acknowledgement, 40 ms.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _bound_file(path: Path) -> socket.socket:
    """A Unix socket; a stale socket file is replaced."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() or path.is_symlink():
            _free(path)
        before = os.umask(0o777 & ~UNIX_MODE)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError:
        bound.close()
        raise
    return bound


def _free(path: Path) -> None:
    """Remove what a process that was killed left; OSError where it is anything else."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, "a file exists there that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove(path: Path, inode: int) -> None:
    """Remove a Unix socket's file, unless it is another's by now."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _listening(bound: socket.socket) -> socket.socket:
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound
