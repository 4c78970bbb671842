"""DNS discovery: each address behind a host name is a replica, followed as the records change.

`moves` decides which addresses join and leave; the loop around it resolves the name and updates the
fleet. A name that resolves to a load balancer, or a server that selects by host name, is one
replica: that is a setting.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.states import Event
from embedfleet.transport.host_names import HostNames
from embedfleet.vocabulary import ReplicaState

log = logging.getLogger(__name__)

DRAIN_OWNER = "dns"
"""Who lets a replica go whose address the name has no more."""

MOST_ADDRESSES = 256
"""Of one name; a resolver that says more is not believed."""

TIMEOUT_S = 5.0
"""A resolver is asked again where it has not answered in that time; what it says later counts."""

POLL_S = 0.5
"""How often it is looked whether a replica that leaves has finished."""

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name; OSError where it has none or can't be resolved."""


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """A replica that the fleet has of a name."""

    leaving: bool
    ready: bool


def resolvable(url: str) -> bool:
    """Whether the host of a replica's address is a name that may have several addresses.

    One by HTTPS is asked by its name, which its certificate is for. `localhost` is this machine,
    with an address in each family.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def at(url: str, address: str) -> str:
    """The same service at one of the addresses of its name."""
    parts = urlsplit(url)
    host = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def moves(known: Mapping[str, KnownAddress], found: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What brings the fleet up to a name's addresses: `join` or `leave`, and the address.

    An address leaves once another one is ready: where a name moves altogether, the old ones serve
    until the new ones do. A name that has no address at all changes nothing.
    """
    if not found:
        return
    for address in found:
        if address not in known or known[address].leaving:
            yield "join", address
    others = any(known[each].ready and not known[each].leaving for each in found if each in known)
    for address, member in known.items():
        if address not in found and not member.leaving and (others or not member.ready):
            yield "leave", address


async def addresses(
    host: str, port: int, names: HostNames, timeout_s: float = TIMEOUT_S
) -> Sequence[str]:
    """What the system's resolver says, in the family that it prefers. Raises OSError.

    A machine that has an address in both families is one replica.
    """
    try:
        async with asyncio.timeout(timeout_s):
            found = await names.addresses(host, port)
    except TimeoutError as error:
        raise OSError(f"no answer within {timeout_s:.3g} s") from error
    family = found[0][0]
    return sorted({address for each, address in found if each == family})[:MOST_ADDRESSES]


class Resolving:
    """Keeps a fleet to the addresses of one name."""

    def __init__(
        self,
        fleet: Fleet,
        name: str,
        url: str,
        *,
        weight: float,
        interval_s: float,
        grace_s: float,
        outstanding: Callable[[str], int],
        resolver: Resolver | None = None,
    ) -> None:
        """`name` is what its replicas' names begin with. `outstanding` are the tokens that a
        replica, by name, still has to answer; it has `grace_s` for them when it leaves.
        """
        self._fleet = fleet
        self._name = name
        self._url = url
        self._weight = weight
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._outstanding = outstanding
        self._resolver = resolver or partial(addresses, names=HostNames())
        self._members: dict[str, Member] = {}
        self._left_at: dict[str, float] = {}
        """Addresses that leave, and since when."""
        self._unresolved: Member | None = None
        """Stands for the name until it has an address, so that the fleet tells what is wrong."""
        self._found: Sequence[str] = ()
        self._unanswered = False

    async def run(self) -> None:
        """Follow the name until cancelled."""
        asked_at = -self._interval_s
        while True:
            now = time.monotonic()
            if now - asked_at >= self._interval_s:
                asked_at = now
                await self._follow()
            self._finish(time.monotonic())
            await asyncio.sleep(
                min(POLL_S, self._interval_s) if self._left_at else self._interval_s
            )

    async def _follow(self) -> None:
        parts = urlsplit(self._url)
        try:
            found = await self._resolver(parts.hostname or "", parts.port or 80)
        except OSError as error:
            why = error.strerror or str(error)
            if self._members:
                self._stay(parts.hostname or "", why)
            else:
                self._miss(why)
            return
        known = {address: _known(member) for address, member in self._members.items()}
        self._unanswered = False
        if found != self._found:
            self._found = found
            log.info("%s is at %s", parts.hostname, ", ".join(found))
        for move, address in list(moves(known, found)):
            if move == "join":
                self._join(address)
            else:
                self._leave(address)

    def _miss(self, why: str) -> None:
        if self._unresolved is None:
            self._unresolved = self._fleet.add(self._name, self._url, time.monotonic())
        self._fleet.note(self._unresolved, why)

    def _join(self, address: str) -> None:
        now = time.monotonic()
        if self._unresolved is not None:
            self._fleet.apply(self._unresolved, Event.LOST, now, "its host name resolves now")
            self._unresolved = None
        self._left_at.pop(address, None)
        member = self._members.get(address)
        if member is not None:
            self._fleet.readmit(member, DRAIN_OWNER, now, "its host name resolves here again")
            return
        self._members[address] = self._fleet.add(
            f"{self._name}-{address}", at(self._url, address), now, weight=self._weight
        )

    def _leave(self, address: str) -> None:
        now, member = time.monotonic(), self._members[address]
        self._left_at[address] = now
        self._fleet.drain(member, DRAIN_OWNER, now, "its host name no longer resolves here")

    def _finish(self, now: float) -> None:
        """Take out those that have left and have nothing more to answer, or had their time."""
        for address, since in list(self._left_at.items()):
            member = self._members[address]
            if self._outstanding(member.name) and now - since < self._grace_s:
                continue
            del self._left_at[address], self._members[address]
            self._fleet.apply(member, Event.LOST, now, "its host name no longer resolves here")

    def _stay(self, host: str, why: str) -> None:
        """Say once, until the name is resolved again, that nothing changes."""
        if not self._unanswered:
            log.warning("%s is not resolved, so its replicas stay: %s", host, why)
        self._unanswered = True


def _known(member: Member) -> KnownAddress:
    return KnownAddress(DRAIN_OWNER in member.leaving, member.state is ReplicaState.READY)
