"""What a request asks for, as ASGI describes it.

Pure. Decides how the target of a request is read. Refuses to know connections.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import httptools

from embedfleet.vocabulary import CallerError
from embedfleet.wire.asgi import Scope

OFFERS = {b"upgrade", b"http2-settings"}


def scope_of(
    about: dict[str, Any],
    method: str,
    version: str,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
) -> Scope:
    """ASGI's scope; `about` is what it says of the connection.

    Raises CallerError or httptools.HttpParserInvalidURLError where it makes no sense.
    """
    if version not in {"1.0", "1.1"}:
        raise CallerError(f"this is HTTP/1.1, not HTTP/{version}")
    if not target.startswith(b"/"):  # with scheme and host, as to a proxy
        parsed = httptools.parse_url(target)
        target = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
    path, _, query = target.partition(b"?")
    text = path.decode("latin-1")
    return {
        **about,
        "http_version": version,
        "method": method,
        "path": unquote(text) if "%" in text else text,
        "raw_path": path,
        "query_string": query,
        "headers": headers,
    }


def without_offer(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of a request that offers to change to another protocol, without the offer.

    Java's client does so with its first request, and takes an answer in HTTP/1.1 as well.
    """
    kept = [method, b" ", target, b" HTTP/1.1\r\n"]
    for name, value in headers:
        if name == b"connection":
            kept += (b"connection: close\r\n",) if b"close" in value.lower() else ()
        elif name not in OFFERS:
            kept += (name, b": ", value, b"\r\n")
    return b"".join([*kept, b"\r\n"])
