"""A gateway's public and admin addresses: sockets, access control, start-up and stop messages."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from socket import socket

from embedfleet.runtime.settings import AdminSettings, Settings, is_loopback
from embedfleet.runtime.settings.addresses import UNIX, DefaultPort, Place
from embedfleet.transport.access import Access, OpenAccess
from embedfleet.transport.access.cors import Cors
from embedfleet.transport.access.guarded_routes import key_guard
from embedfleet.transport.access.ledger import Ledger
from embedfleet.transport.access.setup import callers, certificate, one_key
from embedfleet.transport.access.watching import Watch
from embedfleet.transport.access.web_pages import NoPages
from embedfleet.transport.asgi import App, Guard
from embedfleet.transport.serving import AddressTakenError, bind
from embedfleet.vocabulary import Task, counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guards:
    """Access control of a gateway's addresses: keys, TLS and browser origins."""

    callers: Access
    operators: Access
    public_tls: ssl.SSLContext | None
    admin_tls: ssl.SSLContext | None
    watches: tuple[Watch, ...]
    """Files that may change while the process runs."""
    origins: tuple[str, ...]
    at_home: bool
    """Whether the admin address is on loopback."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        given: Sequence[str] | None,
        first_name: Callable[[str], str],
        ledger: Ledger | None = None,
    ) -> Guards:
        """`given` are keys in addition to the file's, `ledger` is the quota ledger that is shared
        with other processes. Raises SetupError.
        """
        gateway, admin = settings.gateway, settings.admin
        asking, ring = callers(settings.access.keys_file, given, first_name, ledger)
        operating, own = one_key(admin.key_file, "admin.key_file")
        public_tls, renewed = certificate(gateway.tls_certificate, gateway.tls_key)
        admin_tls, renewed_too = certificate(admin.tls_certificate, admin.tls_key)
        watches = (*ring, *own, *renewed, *renewed_too)
        return cls(
            asking,
            operating,
            public_tls,
            admin_tls,
            watches,
            gateway.cors_origins,
            is_loopback(admin.host),
        )

    def warn(self, host: str, urls: Sequence[str]) -> None:
        """Warn if authentication is disabled on an address that other hosts can reach."""
        if isinstance(self.callers, OpenAccess) and not is_loopback(host):
            log.warning(
                "authentication is disabled: anyone who can reach %s can send requests (set "
                "access.keys_file; `embedfleet keys create` makes keys)",
                ", ".join(urls),
            )

    @property
    def of_callers(self) -> Guard | None:
        """The guard of the public routes, which check keys themselves."""
        return NoPages(self.origins) if isinstance(self.callers, OpenAccess) else None

    @property
    def of_operators(self) -> Guard | None:
        """The guard of the admin routes."""
        return key_guard(self.operators) or NoPages(by_name=not self.at_home)

    def public(self, app: App) -> App:
        """The public app with its middleware."""
        return Cors(app, self.origins) if self.origins else app


def admin_socket(chosen: AdminSettings) -> list[socket]:
    """The sockets of the admin address: one, or none if it is off."""
    if chosen.port is None:
        return []
    how = "--admin-port or admin.host (--admin-port 0 takes any free one)"
    try:
        return [bind(chosen.host, chosen.port, how)]
    except AddressTakenError:
        if not isinstance(chosen.port, DefaultPort):
            raise
    free = bind(chosen.host, 0, how)
    log.warning(
        "the default admin port %d is in use; using %s instead (choose one with --admin-port; "
        "`embedfleet status --admin %d` finds it)",
        chosen.port,
        Place(chosen.host, free.getsockname()[1]),
        free.getsockname()[1],
    )
    return [free]


BANNER = """\
embedfleet serves {models} at {at} (fleet and metrics: {admin})

  curl {url}/v1/{route} -H 'content-type: application/json'{key} \\
    -d '{{"model": "{model}", {asked}}}'
"""
ASKED = {
    Task.EMBED: ("embeddings", '"input": "How are you today?"'),
    Task.RERANK: (
        "rerank",
        '"query": "How high?", "documents": ["It is 8,849 m high.", "It is old."]',
    ),
}
"""The route of a model's first request, and what is asked there."""
WITH_A_KEY = " \\\n    -H 'authorization: Bearer YOUR_KEY'"


def banner(
    models: Mapping[str, Task], public: Sequence[str], admin: str | None, *, keys: bool
) -> str:
    """What is served, and a first request; `models` are those served by name, `public` and `admin`
    the listeners' addresses.
    """
    model, task = next(iter(models.items()))
    route, asked = ASKED[task]
    first = next((each for each in public if not each.startswith(UNIX)), public[0])
    url, at = first, f"{first}/v1"
    if first.startswith(UNIX):
        url, at = f"--unix-socket {first.removeprefix(UNIX)} http://localhost", first
    return BANNER.format(
        models=", ".join(models),
        at=at,
        url=url,
        admin=admin or "off",
        model=model,
        route=route,
        asked=asked,
        key=WITH_A_KEY if keys else "",
    )


def startup_line(settings: Settings, public: Sequence[str], admin: str | None) -> str:
    """The log line at start-up: addresses, replicas to start and replicas to wait for."""
    parts = []
    for pool in settings.pools:
        if count := settings.started_replicas(pool):
            whose = "" if pool.engine == "embedfleet" else f" on {pool.engine}"
            parts.append(f"starting {counted(count, 'replica')} of {pool.model}{whose}")
        if pool.replica_urls:
            parts.append(f"waiting for {', '.join(pool.replica_urls)}")
        if pool.replica_service:
            parts.append(f"following the pods of {pool.replica_service}")
    admin_part = f" (fleet and metrics: {admin})" if admin else ""
    return f"listening on {', '.join(public)}{admin_part}; {'; '.join(parts)}"


def shutdown_line(requests: Mapping[int, int]) -> str:
    """The log line at the stop: outcomes of all requests, by HTTP status."""
    answered = requests.get(200, 0)
    left = requests.get(499, 0)
    failed = sum(number for status, number in requests.items() if status >= 500)
    refused = sum(requests.values()) - answered - left - failed
    parts = [f"{counted(answered, 'request')} answered", f"{refused:,} refused"]
    if failed:
        parts.append(f"{failed:,} failed")
    if left:
        parts.append(f"{left:,} left by {'its client' if left == 1 else 'their clients'}")
    return f"stopped: {', '.join(parts)}"
