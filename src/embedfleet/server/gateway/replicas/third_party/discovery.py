"""Detects which third-party engine answers at an address, and whether it can serve the pool.

A shell around `dialects.py` and `facts.py`; `client.py` then serves the pool's calls.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from embedfleet.server.gateway.replicas.third_party.answers import (
    Refusal,
    judge_refusal,
    message_of,
    read_vectors,
)
from embedfleet.server.gateway.replicas.third_party.dialects import (
    TELLING,
    Dialect,
    Page,
    recognise,
    request_body,
)
from embedfleet.server.gateway.replicas.third_party.facts import Facts, unfit
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp, Reply, most_answer_bytes
from embedfleet.transport.frames import MOST_WIDTH
from embedfleet.transport.untrusted import parsed
from embedfleet.vocabulary import Encoding, ModelIdentity, ReplicaError, UnfitReplicaError

log = logging.getLogger(__name__)

NO_METRICS = (
    "it has no metrics at /metrics: engines have a flag for them (`embedfleet engines`), a gateway "
    "has them at its admin address"
)

PROBE_TEXT = "the sea"
"""The text that discovery has an engine compute."""


@dataclass(frozen=True, slots=True)
class DetectedEngine:
    """A discovered engine."""

    dialect: Dialect
    facts: Facts
    width: int
    """As measured."""
    note: str = ""
    """What is missing but does not prevent service."""


@dataclass(frozen=True, slots=True)
class EngineDetector:
    """Discovers engines for one pool."""

    http: EngineHttp
    identity: ModelIdentity
    probe: Encoding
    """A short text of the pool's model."""
    metrics_required: bool = False

    async def detect(self, url: str) -> DetectedEngine:
        """Discover an engine. Raises UnfitReplicaError or ReplicaError."""
        pages = {path: await self.page(url, path) for path in TELLING}
        dialect = parsed(f"what {url} says of itself", recognise, pages)
        if dialect is None:
            raise UnfitReplicaError(
                f"no supported engine answers at {url}: it has neither {TELLING[0]} nor "
                f"{TELLING[1]}"
            )
        facts = await self.read(url, dialect, pages)
        trouble = unfit(facts, self.identity)
        if trouble:
            raise UnfitReplicaError(trouble)
        dialect, width = await self._try(url, dialect, facts)
        measured = dataclasses.replace(facts, width=width)
        trouble = unfit(measured, self.identity)
        if trouble:
            raise UnfitReplicaError(trouble)
        return DetectedEngine(dialect, measured, width, await self._note(url))

    async def read(self, url: str, dialect: Dialect, pages: dict[str, Page] | None = None) -> Facts:
        """Read the engine's pages: all at discovery, later the one that changes."""
        if pages is None:
            pages = {dialect.page: await self.page(url, dialect.page)}
            if pages[dialect.page] is None:
                raise ReplicaError(f"{url}{dialect.page} is no longer JSON")
        else:
            for path in (dialect.page, *dialect.more):
                if pages.get(path) is None:
                    pages[path] = await self.page(url, path)
        return parsed(f"what {url} says of itself", dialect.read, pages, self.identity.name)

    async def page(self, url: str, path: str) -> Page:
        """A page as JSON; None if it does not exist. Raises UnfitReplicaError without the key."""
        reply = await self.http.get(url + path)
        if reply.status == 200:
            return reply.json
        verdict = judge_refusal(reply.status)
        if verdict is Refusal.KEY:
            raise UnfitReplicaError(self.key_trouble(reply))
        if verdict is Refusal.BUSY:  # it is still loading its model
            raise ReplicaError(f"{url}{path} answers {reply.status}: {message_of(reply.body)}")
        return None

    def key_trouble(self, reply: Reply) -> str:
        """The error for an engine that requires a key."""
        if self.http.key:
            return (
                f"it rejects the key in pools.replica_key_file ({reply.status}); put the right one "
                "there and restart the gateway"
            )
        return (
            f"it requires an API key ({reply.status}): name a file that holds it with "
            "pools.replica_key_file"
        )

    async def _try(self, url: str, dialect: Dialect, facts: Facts) -> tuple[Dialect, int]:
        """Have one text computed, in the ways that this engine may understand; the first that it
        does is kept. Returns its width.
        """
        ways = [dialect]
        if dialect.takes_ids is None:
            ways = [
                dataclasses.replace(dialect, takes_ids=ids, encoding_format=form)
                for ids, form in ((True, "base64"), (False, "base64"), (False, "float"))
            ]
        trouble = ""
        for way in ways:
            inputs = [self.probe] if way.takes_ids else [PROBE_TEXT]
            body = request_body(way, facts.model, inputs)
            reply = await self.http.post(
                f"{url}/v1/embeddings",
                body,
                most_answer_bytes(1, MOST_WIDTH),
                self.http.probe_timeout_s * len(ways),
            )
            if reply.status == 200:
                rows = read_rows(reply.body)
                return way, rows
            verdict = judge_refusal(reply.status)
            if verdict is Refusal.KEY:
                raise UnfitReplicaError(self.key_trouble(reply))
            if verdict is Refusal.BUSY:
                raise ReplicaError(f"{url} is busy: {message_of(reply.body)}")
            trouble = f"{reply.status}: {message_of(reply.body)}"
        raise UnfitReplicaError(
            f"it does not compute embeddings; a test text was answered {trouble}"
        )

    async def _note(self, url: str) -> str:
        reply = await self.http.beginning(f"{url}/metrics")
        if reply.status == 200 and reply.body.lstrip().startswith(b"#"):
            return ""
        if self.metrics_required:
            raise UnfitReplicaError(f"{NO_METRICS}, or allow it with replica_metrics_required")
        log.warning("%s: %s", url, NO_METRICS)
        return NO_METRICS


def read_rows(body: bytes) -> int:
    """The width of a first vector; UnfitReplicaError when it is none."""
    try:
        rows = read_vectors(body, 1)
    except ReplicaError as error:
        raise UnfitReplicaError(error.message) from error
    if not rows.right.all():
        raise UnfitReplicaError("its vectors are not finite or of zero length")
    width: int = rows.vectors.shape[1]
    return width
