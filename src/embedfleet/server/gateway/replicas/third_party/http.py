"""HTTP requests to third-party engines: bounded in size and time, with errors translated once.

The API key is never part of a log line or an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from embedfleet.runtime import text_files
from embedfleet.server.gateway.replicas.upstream import bounded, cause_of
from embedfleet.transport.untrusted import MOST_PAGE_BYTES, parsed
from embedfleet.vocabulary import (
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
    SettingError,
)

MOST_COMPLAINT_BYTES = 16 << 10
"""Bytes read of an answer other than 200, and of a page that is only probed."""

_NUMBER_BYTES = 32
"""Upper bound for a JSON number of a vector, with comma and spaces."""

_ROW_BYTES = 1 << 10
"""Upper bound for the JSON around a vector."""

_LOST = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a body."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body; None if it is not JSON."""
        try:
            return parsed("no JSON", orjson.loads, self.body)
        except ReplicaError:
            return None


def most_answer_bytes(texts: int, width: int) -> int:
    """Upper bound of an answer with so many vectors."""
    return MOST_PAGE_BYTES + texts * (_ROW_BYTES + width * _NUMBER_BYTES)


@dataclass(frozen=True, slots=True)
class EngineHttp:
    """Sends GET and POST requests to engines."""

    session: aiohttp.ClientSession
    probe_timeout_s: float
    key: str = field(default="", repr=False)

    async def get(self, url: str) -> Reply:
        """One page. Raises ReplicaLostError when there is no answer, ReplicaError when it is too
        long to be one.
        """
        return await self._send("GET", url, None, self.probe_timeout_s, MOST_PAGE_BYTES)

    async def beginning(self, url: str) -> Reply:
        """The first bytes of a page. Raises ReplicaLostError when there is no answer."""
        return await self._send("GET", url, None, self.probe_timeout_s, None)

    async def post(
        self, url: str, body: bytes, most_bytes: int, timeout_s: float | None = None
    ) -> Reply:
        """Send JSON. Raises ReplicaLostError when there is no answer, ReplicaError when it has more
        than `most_bytes`.
        """
        return await self._send("POST", url, body, timeout_s, most_bytes)

    async def _send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        timeout_s: float | None,
        most_bytes: int | None,
    ) -> Reply:
        headers = {"content-type": "application/json"} if body is not None else {}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self.probe_timeout_s)
        try:
            async with self.session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,  # the key must not go to another host
            ) as response:
                if response.status == 200 and most_bytes is not None:
                    return Reply(200, await bounded(response, most_bytes))
                return Reply(response.status, await _beginning(response))
        except aiohttp.ClientConnectorError as error:
            # Nothing was sent, so it is not an attempt.
            raise ReplicaUnreachableError(f"{url}: {cause_of(error)}") from error
        except _LOST as error:
            raise ReplicaLostError(f"{url}: {cause_of(error)}") from error


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Read a body up to a bound."""
    body = b""
    async for part in response.content.iter_any():
        body += part
        if len(body) >= MOST_COMPLAINT_BYTES:
            break
    return body[:MOST_COMPLAINT_BYTES]


def read_key(path: Path | None, setting: str = "pools.replica_key_file:") -> str:
    """The key in a file; empty without a file. Raises SettingError."""
    if path is None:
        return ""
    return text_files.read_key(path, setting, SettingError)
