"""Addresses in settings: who can reach one to listen on, and where a service has its root."""

from __future__ import annotations

import re
from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def service_root(url: str) -> str:
    """The address without the `/v1` that OpenAI's clients want at the end of theirs."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>(\*\.)?[a-z0-9._~-]+|\[[0-9a-f:.]+\]|\*|)"
    r"(?::(?P<port>[0-9]+))?"
)
_USUAL_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}


def origin_complaint(text: str) -> str:
    """What is wrong with an origin that pages are let in by; empty where nothing is.

    An origin is what browsers write into the header `Origin` (RFC 6454, 6.2): `null`, or scheme,
    host and port, in lower case, names in punycode, the scheme's own port left out. One that is
    written otherwise could never match. `*` is all of them, `https://*.example.org` every host
    below a name, and `app://*` every host of a scheme.
    """
    if text in {"*", "null"}:
        return ""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        if not text.isascii():
            return "is never sent: browsers write names of hosts in punycode (xn--…)"
        return (
            "is not an origin such as https://example.org, http://localhost:3000, app://name, "
            "https://*.example.org or null (lower case, no path, no slash at the end)"
        )
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if not host and scheme != "file":
        return "has no host; `*` stands for any"
    if port is not None and port == _USUAL_PORTS.get(scheme):
        return f"is never sent: browsers leave out the port {port} of {scheme}"
    if port is not None and (port.startswith("0") or int(port) > 65_535):
        return f"has no port that exists: {port}"
    return ""
