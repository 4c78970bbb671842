"""Maps the EndpointSlices of a Service to replicas, and diffs them against a fleet. Pure.

Kubernetes reports for each endpoint: `ready` (may get new connections), `serving` (its readiness
probe passes, also while it terminates) and `terminating`. A missing `ready` counts as true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from embedfleet.vocabulary import SettingError

NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
SERVICE = re.compile(rf"(?P<namespace>{NAME})/(?P<name>{NAME}):(?P<port>{NAME})")
FAMILIES = ("IPv4", "IPv6")
"""Address types, the preferred one first; a pod with both is one replica."""


@dataclass(frozen=True, slots=True)
class Service:
    """Whose endpoints are followed."""

    namespace: str
    name: str
    port: str
    """The port's name in the Service, or the number on which pods listen."""


def parse(text: str) -> Service:
    """Read `namespace/name:port`. Raises SettingError."""
    found = SERVICE.fullmatch(text)
    port = found["port"] if found else ""
    if found is None or (port.isdecimal() and not 0 < int(port) < 65_536):
        raise SettingError(
            f'"{text}" must have the form namespace/name:port, for instance '
            "embedfleet/engine:http (the port's name in the Service, or the pods' number)"
        )
    return Service(found["namespace"], found["name"], port)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod behind the Service."""

    name: str
    url: str
    ready: bool
    """Whether new work may be sent to it."""


def endpoints(slices: Iterable[Mapping[str, Any]], port: str) -> dict[str, Endpoint]:
    """Every endpoint by its pod's name. Endpoints without pod or address are no replicas.

    A pod may be in two slices for a while; it is ready if it is in any.
    """
    found: dict[str, Endpoint] = {}
    ordered = sorted(slices, key=lambda each: each.get("addressType", "") != FAMILIES[0])
    for each in ordered:
        number = _number(each, port)
        if each.get("addressType") not in FAMILIES or number is None:
            continue
        for endpoint in each.get("endpoints") or ():
            one = _endpoint(endpoint, number)
            if one is None:
                continue
            before = found.get(one.name)
            if before is None or (before.url == one.url and one.ready):
                found[one.name] = one
    return found


def _number(slice_: Mapping[str, Any], port: str) -> int | None:
    if port.isdecimal():
        return int(port)
    for each in slice_.get("ports") or ():
        if each.get("name") == port and isinstance(each.get("port"), int):
            return int(each["port"])
    return None


def _endpoint(endpoint: Mapping[str, Any], port: int) -> Endpoint | None:
    target = endpoint.get("targetRef") or {}
    addresses = endpoint.get("addresses") or ()
    if target.get("kind") != "Pod" or not target.get("name") or not addresses:
        return None
    conditions = endpoint.get("conditions") or {}
    ready = conditions.get("ready") is not False and not conditions.get("terminating")
    # Only the first address is meant to be used; the API says so.
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    return Endpoint(target["name"], f"http://{host}:{port}", ready)


class Move(StrEnum):
    """What happens to a replica."""

    JOIN = "join"
    """It is new, or was not ready before: it is watched, and verified before it gets traffic."""
    LEAVE = "leave"
    """It terminates or is no longer ready: it finishes what it has and gets nothing new."""
    LOSE = "lose"
    """It is gone: its texts go to others."""


@dataclass(frozen=True, slots=True)
class KnownReplica:
    """A replica that the fleet has of this Service."""

    url: str
    leaving: bool


def moves(
    known: Mapping[str, KnownReplica], found: Mapping[str, Endpoint]
) -> Iterator[tuple[Move, str, str]]:
    """What brings the fleet up to the endpoints: move, name and address.

    Losses come first, so that a pod of the same name at another address joins afresh.
    """
    for name, member in known.items():
        endpoint = found.get(name)
        if endpoint is None or endpoint.url != member.url:
            yield Move.LOSE, name, member.url
    for name, endpoint in found.items():
        before = known.get(name)
        if before is not None and before.url != endpoint.url:
            before = None
        if endpoint.ready and (before is None or before.leaving):
            yield Move.JOIN, name, endpoint.url
        elif not endpoint.ready and before is not None and not before.leaving:
            yield Move.LEAVE, name, endpoint.url
