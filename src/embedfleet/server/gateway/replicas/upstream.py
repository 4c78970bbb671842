"""Client for embedfleet's own replicas, over the wire protocol.

Replicas are not trusted: each page is bounded in size and total time, each frame in size by its
texts, and each text is answered once. The HTTP library's errors are translated here.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedfleet.models.files import SHARED_FILES
from embedfleet.runtime.telemetry.tracing import carried
from embedfleet.server.gateway.replicas.connections import (
    BrokenError,
    Connection,
    Connections,
    EnoughError,
    Read,
    UnconnectedError,
    cause_of,
    unread,
)
from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription, decode_description
from embedfleet.transport.headers import asked_wait_s
from embedfleet.transport.untrusted import MOST_PAGE_BYTES, message_of
from embedfleet.vocabulary import (
    DrainingError,
    OverloadedError,
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
    counted,
)

FILE_TIMEOUT_S = 60.0
"""For a file of the model, once in a pool's life: the largest tokenizers have tens of MiB."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Client of the replicas' routes."""

    connections: Connections
    probe_timeout_s: float
    gateway: str = field(default_factory=lambda: secrets.token_hex(8))
    """Identifies this gateway to replicas, which divide their windows among gateways."""
    key: str = field(default="", repr=False)
    """The key of `replica.key_file`; empty sends none."""

    @classmethod
    def open(cls, *, connect_timeout_s: float, probe_timeout_s: float) -> Upstream:
        """Open a client without a connection limit: windows bound what is in flight."""
        return cls(Connections(connect_timeout_s=connect_timeout_s), probe_timeout_s)

    async def describe(self, url: str) -> ReplicaDescription:
        """The replica's description. Raises ReplicaError."""
        page = await self._get(f"{url}/v1/replica", MOST_PAGE_BYTES, self.probe_timeout_s)
        return decode_description(page)

    async def fetch_files(self, url: str, directory: Path) -> None:
        """Fetch the small files of its model (tokenizer, configuration) into a directory, bounded
        by the names and sizes of `models.files`. Raises ReplicaError.
        """
        timeout_s = max(FILE_TIMEOUT_S, self.probe_timeout_s)
        for name, most_bytes in SHARED_FILES.items():
            try:
                body = await self._get(f"{url}/v1/replica/files/{name}", most_bytes, timeout_s)
            except MissingFileError:
                continue
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)

    async def work(
        self, url: str, key: str, texts: Sequence[frames.CallText], take: frames.Take
    ) -> None:
        """Send texts; `take` is called with frames as the replica's batches finish.

        Raises DrainingError when the replica refuses new work, ReplicaUnreachableError when no
        connection can be made, ReplicaLostError when it breaks or the answer ends within a frame,
        ReplicaError for an invalid answer, and what `take` raises.
        """
        decoder = frames.FrameDecoder(frames.most_frame_bytes(len(texts)))
        asked = frames.Unanswered(texts)

        refusal = b""

        def read(status: int, part: bytes) -> None:
            if status != 200:
                nonlocal refusal
                refusal = part
                raise EnoughError
            for frame in decoder.feed(part):
                news = asked.news(frame)
                if news is not None:
                    take(news)

        body = frames.encode_call(self.gateway, key, texts)
        answer = await self._post(url, "/v1/work", body, read)
        if answer.status != 200:
            raise _refusal(url, answer.status, refusal, answer.retry_after)
        if decoder.pending:
            raise ReplicaLostError(f"the answer of {url} ended in the middle of a frame")
        if asked.repeated:  # harmless for the texts, but the replica is faulty
            raise ReplicaError(f"it answered {counted(asked.repeated, 'text')} more than once")

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        """Cancel texts at a replica. Raises ReplicaError."""
        body = frames.encode_cancel(key, ids)
        try:
            async with asyncio.timeout(self.probe_timeout_s):
                await self._post(url, "/v1/work/cancel", body, unread)
        except TimeoutError as error:
            raise ReplicaLostError(f"{url}: {cause_of(error)}") from error

    def forget(self, url: str) -> None:
        """No state is kept per replica."""

    def close(self) -> None:
        self.connections.close()

    async def _post(self, url: str, route: str, body: bytes, read: Read) -> Connection:
        """Send a request and read its answer, whose status the connection has. Raises ReplicaError,
        or what `read` does.
        """
        kind = ("content-type", frames.CALL_TYPE)
        headers = [kind, *self._authorization().items(), *carried().items()]
        try:
            return await self.connections.exchange("POST", url, route, body, headers, read)
        except UnconnectedError as error:
            raise ReplicaUnreachableError(f"can't reach {url}: {cause_of(error.cause)}") from error
        except BrokenError as error:
            raise ReplicaLostError(f"lost the replica at {url}: {error}") from error

    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    async def _get(self, url: str, most_bytes: int, timeout_s: float) -> bytes:
        headers = self._authorization().items()
        try:
            async with asyncio.timeout(timeout_s):
                page = await self.connections.fetch("GET", url, None, headers, most_bytes)
        except UnconnectedError as error:
            trouble = ReplicaUnreachableError if refused(error.cause) else ReplicaLostError
            raise trouble(f"{url}: {cause_of(error.cause)}") from error
        except (BrokenError, TimeoutError) as error:
            raise ReplicaLostError(f"{url}: {cause_of(error)}") from error
        if page.status == 404:
            raise MissingFileError(f"{url} does not exist")
        if page.status != 200:
            raise _refusal(url, page.status, page.body, page.retry_after)
        return page.body


def refused(error: Exception) -> bool:
    """Whether the connection was refused, rather than failed for a local reason (no file
    descriptor, no route) or timed out.
    """
    return isinstance(error, OSError) and error.errno == errno.ECONNREFUSED


class MissingFileError(ReplicaError):
    """The replica has no such file or route."""


def _refusal(
    url: str, status: int, body: bytes, retry_after: bytes
) -> DrainingError | ReplicaError:
    text = message_of(body[:2048])
    if status in {DrainingError.status, OverloadedError.status}:
        return DrainingError(text, retry_after_s=asked_wait_s(retry_after, time.time()))
    return ReplicaError(f"{url} answered {status}: {text}")
