"""Restricts what web pages may do with a service that requires no key.

Any page opened on this machine can make the browser send requests to `http://127.0.0.1`. It can't
read the answers, but a POST has taken effect by then (cross-site request forgery). A page whose
host name was re-pointed at this machine could even read them (DNS rebinding); the `host` header
gives it away. API keys prevent both, so this applies only to services without them.

A guard that decides by headers which browsers send and pages can't change.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from embedfleet.transport.access.cors import Origins
from embedfleet.transport.asgi import Request
from embedfleet.vocabulary import ForbiddenError


class NoPages:
    """Refuses requests of pages of other origins."""

    def __init__(self, origins: Collection[str] = (), *, by_name: bool = True) -> None:
        """`origins` may ask; `by_name` takes any name, else addresses and localhost alone."""
        self._origins = Origins(origins)
        self._by_name = by_name

    def __call__(self, request: Request) -> None:
        """Raises ForbiddenError."""
        origin = request.first.get(b"origin", b"")
        if self._by_name and not origin:
            return
        host = request.first.get(b"host", b"")
        if not self._by_name and not is_local_name(host):
            raise ForbiddenError(
                "invalid Host header: use localhost or an IP address, not another host name",
                code="host_not_allowed",
            )
        if not origin or origin in self._origins:
            return
        if is_local_name(host) and origin.partition(b"//")[2] == host:
            return  # a page of this very address
        raise ForbiddenError(
            "requests from web pages of other origins are not allowed; allow an origin with "
            "gateway.cors_origins",
            code="origin_not_allowed",
        )


@lru_cache(maxsize=64)
def is_local_name(host: bytes) -> bool:
    """Whether a `host` header is one that no name server can point elsewhere; so is none at all."""
    name = host.decode("latin-1")
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in {"", "localhost"}:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
