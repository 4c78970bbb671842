"""Calls from a gateway to its replicas over HTTP.

A shell: it does what was decided elsewhere and translates the client library's errors, once, into
ours. Refuses to decide which replica gets what, and what a failure means for it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from embedfleet.model.files import SHARED_FILES
from embedfleet.telemetry.tracing import carried
from embedfleet.vocabulary import (
    DrainingError,
    ReplicaError,
    ReplicaLostError,
    ReplicaUnreachableError,
)
from embedfleet.wire import frames
from embedfleet.wire.description import ReplicaDescription, decode_description

_LOST = (aiohttp.ClientError, TimeoutError, OSError)
"""What the client library raises when a connection can't be made, breaks or stalls."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The replicas' routes, as a gateway calls them."""

    session: aiohttp.ClientSession
    probe_timeout_s: float
    gateway: str = field(default_factory=lambda: secrets.token_hex(8))
    """Names this gateway to replicas, which divide their windows among gateways."""

    @classmethod
    def open(cls, *, connect_timeout_s: float, probe_timeout_s: float) -> Upstream:
        """A client without limits of its own: windows bound what is in flight."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return cls(session, probe_timeout_s)

    async def describe(self, url: str) -> ReplicaDescription:
        """What the replica says of itself. Raises ReplicaError."""
        return decode_description(await self._get(f"{url}/v1/replica"))

    async def fetch_files(self, url: str, directory: Path) -> None:
        """Bring the small files of its model (tokenizer, configuration). Raises ReplicaError."""
        for name in SHARED_FILES:
            try:
                body = await self._get(f"{url}/v1/replica/files/{name}")
            except MissingFileError:
                continue
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)

    async def work(
        self, url: str, key: str, texts: Sequence[frames.CallText]
    ) -> AsyncIterator[frames.Frame]:
        """Hand over texts; frames arrive as the replica's batches finish.

        Raises DrainingError when the replica takes nothing new, ReplicaLostError when the
        connection breaks or the answer ends in the middle of a frame, ReplicaUnreachableError when
        there never was one, ReplicaError on nonsense.
        """
        decoder = frames.FrameDecoder()
        asked = {text.id: frames.echo(text.ids) for text in texts}
        try:
            async with self.session.post(
                f"{url}/v1/work",
                data=frames.encode_call(self.gateway, key, texts),
                headers={"content-type": frames.CALL_TYPE, **carried()},
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                async for chunk in response.content.iter_any():
                    for frame in decoder.feed(chunk):
                        frame.check_echoes(asked)
                        yield frame
        except aiohttp.ClientConnectorError as error:
            raise ReplicaUnreachableError(f"can't reach {url}: {_told(error)}") from error
        except _LOST as error:
            raise ReplicaLostError(f"lost the replica at {url}: {_told(error)}") from error
        if decoder.pending:
            raise ReplicaLostError(f"the answer of {url} ended in the middle of a frame")

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        """Tell a replica that nobody waits for these texts. Raises ReplicaError."""
        try:
            async with self.session.post(
                f"{url}/v1/work/cancel",
                data=frames.encode_cancel(key, ids),
                timeout=aiohttp.ClientTimeout(total=self.probe_timeout_s),
            ) as response:
                await response.read()
        except _LOST as error:
            raise ReplicaLostError(f"{url}: {_told(error)}") from error

    async def close(self) -> None:
        await self.session.close()

    async def _get(self, url: str) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self.probe_timeout_s)
        try:
            async with self.session.get(url, timeout=timeout) as response:
                if response.status == 404:
                    raise MissingFileError(f"{url} does not exist")
                if response.status != 200:
                    raise await _refusal(response)
                return await response.read()
        except _LOST as error:
            raise ReplicaLostError(f"{url}: {_told(error)}") from error


class MissingFileError(ReplicaError):
    """The replica has no such file or route."""


async def _refusal(response: aiohttp.ClientResponse) -> DrainingError | ReplicaError:
    text = (await response.content.read(2048)).decode("utf-8", "replace")
    if response.status == DrainingError.status:
        return DrainingError(text)
    return ReplicaError(f"{response.url} answered {response.status}: {text}")


def _told(error: BaseException) -> str:
    """An error's text; some of the client library's have none."""
    return str(error) or type(error).__name__
