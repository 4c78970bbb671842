"""HTTP requests to third-party engines: bounded in size and time, with errors translated once.

The API key is never part of a log line or an error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from embedfleet.runtime import text_files
from embedfleet.server.gateway.replicas.connections import (
    BrokenError,
    Connections,
    UnconnectedError,
    cause_of,
)
from embedfleet.server.gateway.replicas.third_party.answers import NUMBER_BYTES, ROW_BYTES
from embedfleet.transport.untrusted import MOST_PAGE_BYTES, parsed
from embedfleet.vocabulary import (
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
    SettingError,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a body."""

    status: int
    body: bytes
    retry_after: bytes = b""
    location: bytes = b""

    @property
    def json(self) -> Any:
        """The parsed body; None if it is not JSON."""
        try:
            return parsed("no JSON", orjson.loads, self.body)
        except ReplicaError:
            return None


def most_answer_bytes(texts: int, width: int) -> int:
    """Upper bound of an answer with so many vectors."""
    return MOST_PAGE_BYTES + texts * (ROW_BYTES + width * NUMBER_BYTES)


@dataclass(frozen=True, slots=True)
class EngineHttp:
    """Sends GET and POST requests to engines."""

    connections: Connections
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
        try:
            async with asyncio.timeout(timeout_s):
                return Reply(
                    *await self.connections.fetch(method, url, body, headers.items(), most_bytes)
                )
        except UnconnectedError as error:
            # Nothing was sent, so it is not an attempt.
            raise ReplicaUnreachableError(f"{url}: {cause_of(error.cause)}") from error
        except (BrokenError, TimeoutError) as error:
            raise ReplicaLostError(f"{url}: {cause_of(error)}") from error


def read_key(path: Path | None, setting: str = "pools.replica_key_file:") -> str:
    """The key in a file; empty without a file. Raises SettingError."""
    if path is None:
        return ""
    return text_files.read_key(path, setting, SettingError)
