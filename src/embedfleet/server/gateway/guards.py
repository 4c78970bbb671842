"""Access control of a gateway's two addresses: API keys and TLS, from settings.

Warns when an address is reachable from other hosts without authentication.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedfleet.runtime.settings import Settings, is_loopback
from embedfleet.transport.access import Access, OpenAccess
from embedfleet.transport.access.cors import Cors
from embedfleet.transport.access.ledger import Ledger
from embedfleet.transport.access.setup import callers, certificate, one_key
from embedfleet.transport.access.watching import Watch
from embedfleet.transport.access.web_pages import NoPages
from embedfleet.transport.asgi import App
from embedfleet.transport.content_encodings import Expanding

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guards:
    """What stands between the network and the routes of a gateway."""

    callers: Access
    operators: Access
    public_tls: ssl.SSLContext | None
    admin_tls: ssl.SSLContext | None
    watches: tuple[Watch, ...]
    """Files that may change while the process runs."""
    origins: tuple[str, ...]
    at_home: bool
    """The admin address is reached from this machine alone."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        given: Sequence[str] | None,
        first_name: Callable[[str], str],
        ledger: Ledger | None = None,
    ) -> Guards:
        """`given` are keys beside those of the file, `ledger` what other processes share of their
        limits. Raises SetupError.
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
        """Say once in the log that everybody may ask, where more than this machine can."""
        if isinstance(self.callers, OpenAccess) and not is_loopback(host):
            log.warning(
                "authentication is disabled: anyone who can reach %s can send requests (set "
                "access.keys_file; `embedfleet keys create` makes keys)",
                ", ".join(urls),
            )

    def public(self, app: App) -> App:
        """The public app as it is shown; its routes ask for keys themselves."""
        app = Expanding(app)
        if isinstance(self.callers, OpenAccess):
            app = NoPages(app, self.origins)
        return Cors(app, self.origins) if self.origins else app

    def admin(self, app: App) -> App:
        """The admin app as it is shown."""
        if isinstance(self.operators, OpenAccess):
            return NoPages(app, by_name=not self.at_home)
        return app  # its router asks for the key
