"""Requests to engines of others, with their key.

A shell: sends, reads a bounded answer, translates the client library's errors once. Refuses to
know what an answer means. The key is in no error and no log line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from embedfleet.vocabulary import (
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
    SettingError,
)

LARGEST_ANSWER = 1 << 30
"""Bytes of an answer; a full batch of JSON floats stays far below."""

_LOST = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a body."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body; None when it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


@dataclass(frozen=True, slots=True)
class EngineHttp:
    """GET and POST at engines."""

    session: aiohttp.ClientSession
    probe_timeout_s: float
    key: str = field(default="", repr=False)

    async def get(self, url: str) -> Reply:
        """One page. Raises ReplicaLostError when there is no answer."""
        return await self._send("GET", url, None, self.probe_timeout_s)

    async def post(self, url: str, body: bytes, timeout_s: float | None = None) -> Reply:
        """Send JSON. Raises ReplicaLostError when there is no answer."""
        return await self._send("POST", url, body, timeout_s)

    async def _send(
        self, method: str, url: str, body: bytes | None, timeout_s: float | None
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
                allow_redirects=False,  # a key goes to nobody else
            ) as response:
                return Reply(response.status, await _bounded(response))
        except aiohttp.ClientConnectorError as error:
            # Nobody was there to do harm or have it: the text is not counted as tried.
            raise ReplicaUnreachableError(f"{url}: {error}") from error
        except _LOST as error:
            raise ReplicaLostError(f"{url}: {str(error) or type(error).__name__}") from error


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise ReplicaError(f"{response.url} answers more than {LARGEST_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def read_key(path: Path | None) -> str:
    """The key in a file, empty without one. Raises SettingError."""
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"pools.replica_key_file: {path} can't be read: {error}") from error
    if not key or not key.isascii() or not key.isprintable():
        raise SettingError(f"pools.replica_key_file: {path} holds no key of one line")
    return key
