"""Client for embedfleet's own replicas, over the wire protocol.

Replicas are not trusted: each page is bounded in size and total time, each frame in size by its
texts, and each text is answered once. The HTTP library's errors are translated here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from embedfleet.models.files import SHARED_FILES
from embedfleet.runtime.telemetry.tracing import carried
from embedfleet.server.gateway.connections import BrokenError, Connections, Read, unread
from embedfleet.server.gateway.keepalive import watched_socket
from embedfleet.server.gateway.third_party.answers import message_of
from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription, decode_description
from embedfleet.transport.untrusted import MOST_PAGE_BYTES
from embedfleet.vocabulary import (
    DrainingError,
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
    counted,
)

FILE_TIMEOUT_S = 60.0
"""For a file of the model, once in a pool's life: the largest tokenizers have tens of MiB."""

_LOST = (aiohttp.ClientError, TimeoutError, OSError)
"""What the client library raises when a connection can't be made, breaks or stalls."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The replicas' routes, as a gateway calls them."""

    session: aiohttp.ClientSession
    """For what is asked now and then."""
    connections: Connections
    """For calls."""
    probe_timeout_s: float
    gateway: str = field(default_factory=lambda: secrets.token_hex(8))
    """Names this gateway to replicas, which divide their windows among gateways."""
    key: str = field(default="", repr=False)
    """What replicas may ask for (`replica.key_file`); empty sends none."""

    @classmethod
    def open(cls, *, connect_timeout_s: float, probe_timeout_s: float) -> Upstream:
        """A client without limits of its own: windows bound what is in flight."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=60, socket_factory=watched_socket
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return cls(session, Connections(connect_timeout_s=connect_timeout_s), probe_timeout_s)

    async def describe(self, url: str) -> ReplicaDescription:
        """What the replica says of itself. Raises ReplicaError."""
        page = await self._get(f"{url}/v1/replica", MOST_PAGE_BYTES, self.probe_timeout_s)
        return decode_description(page)

    async def fetch_files(self, url: str, directory: Path) -> None:
        """Bring the small files of its model (tokenizer, configuration) into a directory, under the
        names and within the sizes of `models.files`. Raises ReplicaError.
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
        """Hand over texts; `take` gets frames as the replica's batches finish.

        Raises DrainingError when the replica takes nothing new, ReplicaLostError when the
        connection breaks or the answer ends in the middle of a frame, ReplicaUnreachableError when
        there never was one, ReplicaError on nonsense, and what `take` raises.
        """
        decoder = frames.FrameDecoder(frames.most_frame_bytes(len(texts)))
        asked = frames.Unanswered(texts)

        def read(status: int, part: bytes) -> None:
            if status != 200:
                raise _refusal(url, status, part)
            for frame in decoder.feed(part):
                news = asked.news(frame)
                if news is not None:
                    take(news)

        body = frames.encode_call(self.gateway, key, texts)
        status = await self._post(url, "/v1/work", body, read)
        if status != 200:
            raise _refusal(url, status, b"")
        if decoder.pending:
            raise ReplicaLostError(f"the answer of {url} ended in the middle of a frame")
        if asked.repeated:  # no text is worse off for it, but something is wrong with the replica
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
        """Nothing is kept of a replica."""

    async def close(self) -> None:
        self.connections.close()
        await self.session.close()

    async def _post(self, url: str, route: str, body: bytes, read: Read) -> int:
        """Make a call to its end; return its status. Raises ReplicaError, or what `read` does."""
        kind = ("content-type", frames.CALL_TYPE)
        headers = [kind, *self._authorization().items(), *carried().items()]
        try:
            connection = await self.connections.post(url, route, body, headers, read)
        except (OSError, TimeoutError, ValueError) as error:
            raise ReplicaUnreachableError(f"can't reach {url}: {cause_of(error)}") from error
        try:
            await connection.answered()
        except BrokenError as error:
            raise ReplicaLostError(f"lost the replica at {url}: {error}") from error
        finally:
            self.connections.give_back(url, connection)
        return connection.status

    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    async def _get(self, url: str, most_bytes: int, timeout_s: float) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self.session.get(
                url,
                timeout=timeout,
                headers=self._authorization(),
                allow_redirects=False,  # the key must not go to another host
            ) as response:
                if response.status == 404:
                    raise MissingFileError(f"{url} does not exist")
                if response.status != 200:
                    raise _refusal(url, response.status, await response.content.read(2048))
                return await bounded(response, most_bytes)
        except aiohttp.ClientConnectorError as error:
            trouble = ReplicaUnreachableError if refused(error) else ReplicaLostError
            raise trouble(f"{url}: {cause_of(error)}") from error
        except _LOST as error:
            raise ReplicaLostError(f"{url}: {cause_of(error)}") from error


def refused(error: aiohttp.ClientConnectorError) -> bool:
    """Whether nothing listens there, rather than that no connection can be made from here (no
    file left to open, no route) or in time.
    """
    cause = getattr(error, "os_error", None)  # a wrong certificate's has none
    return cause is not None and cause.errno == errno.ECONNREFUSED


async def bounded(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body of an answer; ReplicaError where it is longer than that, before it is all there."""
    declared = response.content_length
    if declared is not None and declared > most_bytes:
        raise ReplicaError(f"{response.url} answers {declared} bytes, more than {most_bytes}")
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most_bytes:
            raise ReplicaError(f"{response.url} answers more than {most_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


class MissingFileError(ReplicaError):
    """The replica has no such file or route."""


def _refusal(url: str, status: int, body: bytes) -> DrainingError | ReplicaError:
    text = message_of(body[:2048])
    if status == DrainingError.status:
        return DrainingError(text)
    return ReplicaError(f"{url} answered {status}: {text}")


def cause_of(error: BaseException) -> str:
    """What is wrong with a connection, in the system's words where it is the system's error: of the
    client library's own some have no text, and some tell the address again.
    """
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
        # A resolver's errors have numbers of their own.
        return (cause.strerror or "") if cause.errno < 0 else os.strerror(cause.errno)
    return str(error) or type(error).__name__
