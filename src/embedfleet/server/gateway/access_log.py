"""The access log: one line per request. Never a text, never an API key.

Values that clients choose freely are left out or normalised: routes as in the routing table, models
by their first name, request ids and addresses only if they are well-formed.
"""

from __future__ import annotations

import logging
import re

from embedfleet.api.served_model import Answered
from embedfleet.transport.asgi import ClientGoneError, Request, Response
from embedfleet.transport.headers import TrustedProxies, client_address

log = logging.getLogger("embedfleet.access")

_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{1,45}(%\w{1,15})?")
_METHOD = re.compile(r"[A-Z]{1,16}")


OF_MACHINES = {"/metrics", "/targets", "/health", "/health/live", "/health/ready"}
"""Asked every few seconds by what watches the service; only refusals of these are written."""


class AccessLog:
    """Follows the requests of an app."""

    def __init__(self, trusted_proxies: TrustedProxies) -> None:
        self._trusted_proxies = trusted_proxies
        log.setLevel(logging.INFO)  # access logging was requested, whatever the log level

    def __call__(
        self, route: str, request: Request, response: Response | None, seconds: float
    ) -> None:
        if route in OF_MACHINES and response is not None and response.status < 400:
            return
        answered = request.notes.get("answered")
        method = request.scope["method"]
        address = client_address(request, self._trusted_proxies)
        fields: dict[str, object] = {
            "method": method if _METHOD.fullmatch(method) else "-",
            "route": route,
            "status": ClientGoneError.status if response is None else response.status,
        }
        if isinstance(answered, Answered):
            fields |= {
                "model": answered.model or "-",
                "texts": answered.texts,
                "tokens": answered.tokens,
                "hits": "-" if answered.hits is None else answered.hits,
            }
        key = answered.key if isinstance(answered, Answered) else request.notes.get("key", "")
        fields |= {
            "seconds": round(seconds, 6),
            "client": address if _ADDRESS.fullmatch(address) else "-",
            "key": key or "-",
            "request": request.id,
        }
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        log.info("%s", line, extra={"fields": fields})
