"""Request and response headers: lane, deadline, cache control, client address, timing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from embedfleet.transport.asgi import Request
from embedfleet.vocabulary import CallerError, Lane, SettingError

UNIX = "unix"
"""The address of every client of a Unix socket."""

TrustedProxies: TypeAlias = tuple[IPv4Network | IPv6Network | str, ...]
"""Networks whose word on the client's address is believed; `UNIX` is no network."""

NO_PROXIES: TrustedProxies = ()


def lane_of(value: str | None) -> Lane:
    """The lane that `x-embedfleet-lane` selects; interactive without it."""
    if value is None:
        return Lane.INTERACTIVE
    try:
        return Lane(value.strip().lower())
    except ValueError:
        raise CallerError(
            f"header x-embedfleet-lane is {value!r}; it takes `interactive` or `bulk`",
            param="x-embedfleet-lane",
            code="invalid_header",
        ) from None


def deadline_s(value: str | None, most_s: float) -> float:
    """Seconds that `x-request-deadline-ms` gives a request; `most_s` without it, and at most."""
    if value is None:
        return most_s
    text = value.strip()
    digits = text.lstrip("0")
    if not text.isdecimal() or not text.isascii() or not digits:
        raise CallerError(
            f"header x-request-deadline-ms is {value[:40]!r}; it takes a whole number of "
            "milliseconds from now, at least 1",
            param="x-request-deadline-ms",
            code="invalid_header",
        )
    # Thousands of digits are more than Python reads as a number; twelve are a lifetime.
    return min(most_s, int(digits[:12]) / 1000)


def asked_wait_s(value: bytes, now: float) -> float:
    """Seconds that a header `retry-after` asks for, in either form; 0 for anything else. `now` is
    in seconds since 1970.
    """
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


@dataclass(frozen=True, slots=True)
class CacheDirectives:
    """What a caller allows a cache to do."""

    answer: bool
    """Answer from it."""
    store: bool
    """Keep what is computed for this request."""


_ANY_CACHE = CacheDirectives(answer=True, store=True)


def cache_directives(value: str | None) -> CacheDirectives:
    """What `cache-control` asks for, as RFC 9111 has it for requests (5.2.1): `no-cache` wants
    nothing that was stored, `no-store` wants nothing to be stored. Other directives are about age,
    which a vector has none of.
    """
    if value is None:
        return _ANY_CACHE
    directives = {word.partition("=")[0].strip().lower() for word in value.split(",")}
    return CacheDirectives(answer="no-cache" not in directives, store="no-store" not in directives)


def trusted_networks(names: tuple[str, ...]) -> TrustedProxies:
    """From names such as `10.0.0.0/8`, `127.0.0.1` or `unix`; SettingError if one is none."""
    try:
        return tuple(name if name == UNIX else ip_network(name, strict=False) for name in names)
    except ValueError as error:
        raise SettingError(f"gateway.trusted_proxies: {error}") from error


def client_address(request: Request, trusted: TrustedProxies) -> str:
    """The client's address; a proxy's word on it counts only where the proxy is trusted.

    Of `x-forwarded-for` the last address that is no trusted proxy itself is taken: everything to
    its left was added by an untrusted sender.
    """
    peer = (request.scope.get("client") or ("",))[0]
    if not trusted or not _is_trusted(peer, trusted):
        return str(peer)
    forwarded = request.listed(b"x-forwarded-for")  # HAProxy adds a line of its own
    if forwarded:
        hops = [hop.strip() for hop in forwarded.split(",")]
        return next((hop for hop in reversed(hops) if not _is_trusted(hop, trusted)), hops[0])
    return (request.header(b"x-real-ip") or str(peer)).strip()


def timing_headers(total_s: float, queue_s: float, compute_s: float) -> list[tuple[bytes, bytes]]:
    """Where a request's time went: `server-timing`, and what is neither waiting nor computing."""
    overhead_ms = max(0.0, total_s - queue_s - compute_s) * 1e3
    timing = b"queue;dur=%.1f, compute;dur=%.1f" % (queue_s * 1e3, compute_s * 1e3)
    return [(b"server-timing", timing), (b"x-embedfleet-overhead-ms", b"%.2f" % overhead_ms)]


def _is_trusted(address: str, trusted: TrustedProxies) -> bool:
    if address == UNIX:
        return UNIX in trusted
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(not isinstance(network, str) and parsed in network for network in trusted)
