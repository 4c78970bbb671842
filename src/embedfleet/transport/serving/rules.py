"""Validates request heads beyond their syntax (RFC 9110, RFC 9112). Pure.

The parser enforces grammar and framing by length. This covers what it leaves to servers: versions,
`Host`, transfer codings, and request targets that only proxies accept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import httptools
import msgspec

from embedfleet.vocabulary import CallerError, NotImplementedHereError, UnknownVersionError

Headers = Sequence[tuple[bytes, bytes]]

_HOST = re.compile(rb"(\[[0-9A-Za-z:.~_%!$&'()*+,;=-]+\]|[0-9A-Za-z.~_%!$&'()*+,;=-]*)(:[0-9]*)?")
"""`uri-host [ ":" port ]` (RFC 9110, 7.2); empty is allowed."""

VERSIONS = {"1.0", "1.1"}

BLANK_LINES = re.compile(rb"[\r\n]+")
"""They may stand before a request (RFC 9112, 2.2)."""


class Head(msgspec.Struct, frozen=True):
    """What the framing of a request's body is, once its head is found right."""

    length: int | None
    """Bytes of the body; None where it comes in chunks."""
    target: bytes
    """Path and query."""
    authority: bytes | None = None
    """The host of a target in absolute form; it replaces the header (RFC 9112, 3.2.2)."""


def read_head(
    method: bytes, version: str, target: bytes, headers: Headers, first: Mapping[bytes, bytes]
) -> Head:
    """Read what frames a request and where it goes.

    Names are in lower case; `first` has the first header of each. Raises CallerError,
    UnknownVersionError or NotImplementedHereError.
    """
    if version not in VERSIONS:
        raise _unknown(version)
    host, codings = first.get(b"host"), first.get(b"transfer-encoding")
    hosts = int(host is not None)
    if len(first) < len(headers):  # a name is there twice
        hosts = sum(name == b"host" for name, _ in headers)
        if codings is not None:
            codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if host is not None and not _is_host(host):
        raise CallerError("the header Host must be a host with an optional port")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise CallerError(f"a request must have exactly one Host header; this one has {hosts}")
    if method == b"CONNECT":
        raise NotImplementedHereError("CONNECT is not implemented: this server is not a proxy")
    if codings is not None:
        _check_codings(codings, version)
    a_path = target.startswith(b"/")
    path, authority = (target, None) if a_path else _origin_form(method, target)
    # The parser let one length of digits alone pass.
    length = None if codings is not None else int(first.get(b"content-length", 0))
    return Head(length, path, authority)


def malformed(error: httptools.HttpParserError, version: str) -> CallerError:
    """The refusal of what the parser finds wrong; `version` is what it read of the version."""
    preface = "PRI" in str(error)  # of HTTP/2
    if preface or ("HTTP version" in str(error) and version not in VERSIONS):
        return _unknown("2.0" if preface else version)
    return CallerError(f"malformed HTTP request: {error}")


def _unknown(version: str) -> UnknownVersionError:
    return UnknownVersionError(
        f"unsupported protocol version: expected HTTP/1.1, not HTTP/{version}"
    )


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    """Whether a header `Host` is one; clients send few different ones."""
    return _HOST.fullmatch(value.strip(b" \t")) is not None  # the parser keeps what follows it


def _check_codings(listed: bytes, version: str) -> None:
    """Let `chunked` pass, once and alone (RFC 9112, 6.1)."""
    codings = [each.strip().lower() for each in listed.split(b",") if each.strip()]
    if version == "1.0":
        raise CallerError("Transfer-Encoding is not allowed in HTTP/1.0")
    if set(codings) != {b"chunked"}:
        raise NotImplementedHereError(
            "Transfer-Encoding may be `chunked` alone; compress a body by Content-Encoding"
        )
    if len(codings) > 1:
        raise CallerError("`chunked` may be applied only once")


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of a target that is no path, and its host where it has one."""
    if target == b"*" and method == b"OPTIONS":
        return target, None
    try:
        parsed = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError as error:
        raise CallerError("the request target is neither a path nor a URL") from error
    if parsed.schema is None or parsed.schema.lower() not in {b"http", b"https"} or not parsed.host:
        raise CallerError("the request target is neither a path nor an http URL")
    host = b"[%b]" % parsed.host if b":" in parsed.host else parsed.host
    authority = host if parsed.port is None else b"%b:%d" % (host, parsed.port)
    query = b"?" + parsed.query if parsed.query is not None else b""
    return (parsed.path or b"/") + query, authority


def without_offer(method: bytes, version: str, target: bytes, headers: Headers) -> bytes:
    """The head of a request that offers to change to another protocol, without the offer.

    An offer need not be taken (RFC 9110, 7.8). Java's client makes one with its first request, and
    the parser leaves the body of such a request alone.
    """
    kept = [method, b" ", target, b" HTTP/", version.encode(), b"\r\n"]
    for name, value in headers:
        if name == b"connection":
            kept += (b"connection: close\r\n",) if b"close" in value.lower() else ()
        elif name not in {b"upgrade", b"http2-settings"}:
            kept += (name, b": ", value, b"\r\n")
    return b"".join([*kept, b"\r\n"])
