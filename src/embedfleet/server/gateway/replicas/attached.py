"""Client for replicas given by address only: detects whether each is embedfleet's or third-party.

Calls are forwarded to the client of the kind that was detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedfleet.fleet.replica_client import ReplicaClient
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp
from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription
from embedfleet.vocabulary import (
    LoadingReplicaError,
    ReplicaError,
    ReplicaLostError,
    UnfitReplicaError,
)

NO_MODEL = (
    "it is not an embedfleet replica, and third-party engines do not report their tokenizer: "
    "name the directory of the model with --model DIR (tokenizer.json and config.json are enough)"
)


class Attached:
    """The client of a pool whose replicas may be of either kind."""

    def __init__(
        self, own: ReplicaClient, third_party: ReplicaClient | None, http: EngineHttp
    ) -> None:
        """`third_party` is None if the pool's model is not known."""
        self._own = own
        self._third_party = third_party
        self._http = http
        self._kinds: dict[str, ReplicaClient] = {}
        self._doubtful: set[str] = set()
        """Addresses whose last probe failed: another server may listen there next."""

    async def describe(self, url: str) -> ReplicaDescription:
        """Describe the replica there, of either kind."""
        client = None if url in self._doubtful else self._kinds.get(url)
        try:
            client = client or await self._find(url)
            description = await client.describe(url)
        except ReplicaError:
            # Its kind is kept for calls: a replica that missed one probe is still used.
            self._doubtful.add(url)
            raise
        self._doubtful.discard(url)
        self._kinds[url] = client
        return description

    async def fetch_files(self, url: str, directory: Path) -> None:
        await self._client(url).fetch_files(url, directory)

    async def work(
        self, url: str, key: str, texts: Sequence[frames.CallText], take: frames.Take
    ) -> None:
        """Forward to the client of its kind."""
        await self._client(url).work(url, key, texts, take)

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:
        await self._client(url).cancel(url, key, ids)

    def forget(self, url: str) -> None:
        """Forget a removed replica; another kind may answer at its address next."""
        self._kinds.pop(url, None)
        self._doubtful.discard(url)
        if self._third_party is not None:
            self._third_party.forget(url)

    def _client(self, url: str) -> ReplicaClient:
        """The client of the kind seen last; by default our own."""
        return self._kinds.get(url, self._own)

    async def _find(self, url: str) -> ReplicaClient:
        reply = await self._http.get(f"{url}/v1/replica")
        page = reply.json if reply.status == 200 else None
        if isinstance(page, dict) and "wire" in page:
            return self._own
        if reply.status == 503:
            raise LoadingReplicaError(f"{url} answers 503: it is still starting")
        if reply.status >= 500:
            raise ReplicaLostError(f"{url} answers {reply.status}: it may still be starting")
        if self._third_party is None and reply.status in {401, 403}:
            raise UnfitReplicaError(
                f"{url} answers {reply.status}: it requires a different API key; name a file "
                "that holds it with pools.replica_key_file, and restart the gateway"
            )
        if self._third_party is None:
            raise UnfitReplicaError(NO_MODEL)
        return self._third_party
