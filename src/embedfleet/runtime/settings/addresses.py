"""Addresses in settings: listening sockets, URLs of services, and who can reach them."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

UNIX = "unix:"
ANY = {"0.0.0.0", "::"}  # noqa: S104  compared with


class DefaultPort(int):
    """A default port: where it is in use, any free one will do."""


class Place(NamedTuple):
    """One address to listen on."""

    host: str
    port: int
    path: Path | None = None
    """The file of a Unix socket, which has no host and no port."""

    def __str__(self) -> str:
        if self.path is not None:
            return f"{UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def collides(self, other: Place) -> bool:
        """Whether only one of them can be listened on."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        if not self.port or self.port != other.port:
            return False
        return self.host == other.host or bool(ANY & {self.host, other.host})


def places(hosts: str, port: int) -> tuple[Place, ...]:
    """Where to listen: hosts and `unix:PATH` with commas between. ValueError says what is wrong."""
    found: list[Place] = []
    for each in (part.strip() for part in hosts.split(",")):
        if not each.startswith(UNIX):
            place = Place(each.removeprefix("[").removesuffix("]"), port)
        elif not each.startswith(f"{UNIX}/"):
            raise ValueError(f"{each} has no absolute path, such as unix:/run/embedfleet/http.sock")
        else:
            place = Place("", 0, Path(each.removeprefix(UNIX)))
        if place.path is None and not place.host:
            raise ValueError(
                "an address is empty; use 0.0.0.0 for all IPv4 addresses, or :: for all addresses"
            )
        if place.path is None and not is_host(place.host):
            raise ValueError(f"{each!a} is neither an address nor the name of a host")
        if place in found:
            raise ValueError(f"{each} is listed twice")
        found.append(place)
    return tuple(found)


def is_host(name: str) -> bool:
    """Whether a resolver can be asked for a name; for others the library raises what is no OSError:
    an empty label (`a..b`), one of more than 63 characters, bytes that are no text.
    """
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return bool(name) and name.isprintable() and " " not in name


def is_service(url: str) -> bool:
    """Whether this is the address of a service by HTTP, such as http://10.0.0.5:9000."""
    if not url.isprintable() or " " in url:  # the parser leaves some of these out
        return False
    try:
        parts = urlsplit(url)
        port = parts.port  # raises for what is no port number
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username)
    return (
        parts.scheme in {"http", "https"} and is_host(parts.hostname or "") and port != 0 and plain
    )


def is_loopback(hosts: str) -> bool:
    """Whether only this machine reaches any of them."""
    return all(map(_is_loopback, hosts.split(",")))


def _is_loopback(host: str) -> bool:
    host = host.strip().removeprefix("[").removesuffix("]")
    if host.startswith(UNIX):
        return True
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
