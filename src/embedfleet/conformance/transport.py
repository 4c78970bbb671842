"""HTTP transport of the checks: sends requests exactly as given, valid or not."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from yarl import URL

from embedfleet.conformance.exchange import Answer, Ask, NoAnswerError
from embedfleet.vocabulary import SetupError

PIECE = 1024
"""Bytes in one piece of a body that is sent in pieces."""


def api_base(url: str) -> str:
    """Give the address under which `/embeddings` lies: an address without a path gets `/v1`.

    Raises SetupError for what is no HTTP address.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SetupError(f"{url!r} is not an address such as http://127.0.0.1:8080/v1")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


class Http:
    """Sends requests to one base URL; make it with `connected`."""

    def __init__(self, base: str, key: str | None, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"

    async def send(self, ask: Ask) -> Answer:
        """Send one request, following no redirects."""
        base = self._base.removesuffix("/v1") if ask.root else self._base
        url = URL(base + ask.path, encoded=True)
        body = _pieces(ask.body or b"") if ask.chunked else ask.body
        headers = {
            name: value for name, value in (self._headers | dict(ask.headers)).items() if value
        }
        try:
            async with self._session.request(
                ask.method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                found = {name.lower(): value for name, value in response.headers.items()}
                return Answer(ask, response.status, found, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(f"no answer to {ask.shown}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """In the system's words where no connection was made: aiohttp's are an address and flags."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        told = getattr(error.certificate_error, "verify_message", error.certificate_error)
        return f"its certificate is not accepted: {told}; SSL_CERT_FILE names those to trust"
    if isinstance(error, ssl.SSLError):
        return str(error)
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        where = f"{error.host}:{error.port}"
        # Numbers of name resolution are negative.
        words = os.strerror(number) if number > 0 else error.os_error.strerror
        return f"{where}: {words}"
    return str(error) or type(error).__name__


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(url: str, *, key: str | None, timeout_s: float) -> AsyncIterator[Http]:
    """Open a transport to a service; `timeout_s` bounds every single request."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    # Without a jar for cookies and with nothing of the environment: what is told is what is sent.
    async with aiohttp.ClientSession(
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        yield Http(api_base(url), key, session)
