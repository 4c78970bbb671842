"""Detects which third-party engine answers at an address, and whether it can serve the pool.

A shell around `dialects.py` and `facts.py`; `client.py` then serves the pool's calls.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from embedfleet.models.reranker import Scoring
from embedfleet.server.gateway.replicas.third_party.answers import (
    Refusal,
    Rows,
    judge_refusal,
)
from embedfleet.server.gateway.replicas.third_party.asking import (
    Asking,
    Form,
    Input,
    ScoreAsking,
    meaning_of,
)
from embedfleet.server.gateway.replicas.third_party.dialects import (
    TELLING,
    Dialect,
    Page,
    recognise,
)
from embedfleet.server.gateway.replicas.third_party.facts import Facts, unfit
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp, Reply, most_answer_bytes
from embedfleet.transport.frames import MOST_WIDTH
from embedfleet.transport.untrusted import message_of, parsed, shown
from embedfleet.vocabulary import ModelIdentity, Pooling, ReplicaError, UnfitReplicaError

log = logging.getLogger(__name__)

NO_METRICS = (
    "it has no metrics at /metrics: engines have a flag for them (`embedfleet engines`), a gateway "
    "has them at its admin address"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Short texts, or pairs of one query, that discovery has an engine compute."""

    inputs: Mapping[Form, Sequence[Input]]
    tokens: int
    """Of all of them."""


@dataclass(frozen=True, slots=True)
class DetectedEngine:
    """A discovered engine."""

    dialect: Dialect
    asking: Asking
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
    sample: Sample
    pooling: str = Pooling.LAST
    """The model's: which states become a vector."""
    scoring: Scoring | None = None
    """Of a reranker."""
    metrics_required: bool = False

    async def detect(self, url: str) -> DetectedEngine:
        """Discover an engine. Raises UnfitReplicaError or ReplicaError."""
        pages = {path: await self.page(url, path) for path in TELLING}
        dialect = parsed(f"what {url} says of itself", recognise, pages)
        if dialect is None:
            raise UnfitReplicaError(
                f"no supported engine answers at {url}: it has neither {TELLING[0]} nor "
                f"{TELLING[1]} (Infinity has the first with --url-prefix /v1)"
            )
        facts = await self.read(url, dialect, pages)
        trouble = unfit(facts, self.identity, self.pooling)
        if trouble:
            raise UnfitReplicaError(trouble)
        ways = dialect.embeds
        if self.scoring is not None:
            ways = dialect.scores(self.scoring, facts)
        asking, width = await self._try(url, ways, facts)
        measured = dataclasses.replace(facts, width=width)
        trouble = unfit(measured, self.identity, self.pooling)
        if trouble:
            raise UnfitReplicaError(trouble)
        return DetectedEngine(dialect, asking, measured, width, await self._note(url))

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
        return parsed(f"what {url} says of itself", dialect.read, pages, self.identity)

    async def page(self, url: str, path: str) -> Page:
        """A page as JSON; None if it does not exist. Raises UnfitReplicaError as `check_setup`."""
        reply = await self.http.get(url + path)
        if reply.status == 200:
            return reply.json
        self.check_setup(reply)
        if judge_refusal(reply.status) is Refusal.BUSY:  # it is still loading its model
            raise ReplicaError(f"{url}{path} answers {reply.status}: {message_of(reply.body)}")
        return None

    def check_setup(self, reply: Reply) -> None:
        """Raises UnfitReplicaError for a refusal that only an operator can mend."""
        refusal = judge_refusal(reply.status)
        if refusal is Refusal.REDIRECT:
            raise UnfitReplicaError(
                f"it redirects to {_origin(reply.location)} ({reply.status}), which is not "
                "followed: give the pool the address that answers itself, with its scheme, host, "
                "port and path"
            )
        if refusal is Refusal.KEY and self.http.key:
            raise UnfitReplicaError(
                f"it rejects the key in pools.replica_key_file ({reply.status}); put the right one "
                "there and restart the gateway"
            )
        if refusal is Refusal.KEY:
            raise UnfitReplicaError(
                f"it requires an API key ({reply.status}): name a file that holds it with "
                "pools.replica_key_file"
            )

    async def _try(self, url: str, ways: Sequence[Asking], facts: Facts) -> tuple[Asking, int]:
        """Have the sample computed, in the ways that this engine may understand; the first that it
        does is kept. Returns its width.
        """
        trouble = ""
        timeout_s = self.http.probe_timeout_s * len(ways)
        for way in ways:
            reply = await self._sampled(url, way, self._request(way, facts), timeout_s)
            if reply.status == 200:
                if isinstance(way, ScoreAsking):
                    return await self._scored(url, way, facts, reply), self.identity.width
                return way, width_of(way.rows, reply.body, self.sample)
            trouble = f"{reply.status}: {message_of(reply.body)}"
        computes = "embeddings" if self.scoring is None else "scores of pairs"
        raise UnfitReplicaError(f"it computes no {computes}; the test was answered {trouble}")

    def _request(self, way: Asking, facts: Facts) -> bytes:
        return way.request(facts.model, self.sample.inputs[way.form])

    async def _sampled(self, url: str, way: Asking, body: bytes, timeout_s: float) -> Reply:
        """The reply to a sample. Raises UnfitReplicaError as `check_setup`, ReplicaError while the
        engine is busy.
        """
        most = most_answer_bytes(len(self.sample.inputs[way.form]), MOST_WIDTH)
        reply = await self.http.post(f"{url}{way.path}", body, most, timeout_s)
        self.check_setup(reply)
        if judge_refusal(reply.status) is Refusal.BUSY:
            raise ReplicaError(f"{url} is busy: {message_of(reply.body)}")
        return reply

    async def _scored(self, url: str, way: ScoreAsking, facts: Facts, reply: Reply) -> ScoreAsking:
        """The way with what its numbers mean. Raises UnfitReplicaError for what are no scores."""
        pairs, tokens = len(self.sample.inputs[way.form]), self.sample.tokens
        again = None
        if way.activated is not None:
            other = dataclasses.replace(way, body=way.activated)
            body, timeout_s = self._request(other, facts), self.http.probe_timeout_s
            again = await self._sampled(url, other, body, timeout_s)
        try:
            raw = way.scores(reply.body, pairs, tokens)
            if again is not None:
                meaning = meaning_of(raw, way.scores(again.body, pairs, tokens))
                way = dataclasses.replace(way, meaning=meaning, activated=None)
            rows = way.rows(reply.body, pairs, tokens)
        except ReplicaError as error:
            raise UnfitReplicaError(error.message) from error
        if not rows.right.all():
            raise UnfitReplicaError("its scores are not finite")
        if len(set(raw.numbers.tolist())) == 1:
            raise UnfitReplicaError(
                f"it gives different pairs the same score, {raw.numbers[0]:.6g}: its file of the "
                "model has no layer that scores; convert the model anew"
            )
        return way

    async def _note(self, url: str) -> str:
        reply = await self.http.beginning(f"{url}/metrics")
        if reply.status == 200 and reply.body.lstrip().startswith(b"#"):
            return ""
        if self.metrics_required:
            raise UnfitReplicaError(f"{NO_METRICS}, or allow it with replica_metrics_required")
        log.warning("%s: %s", url, NO_METRICS)
        return NO_METRICS


def _origin(location: bytes) -> str:
    """Scheme and host of an address: what follows them may be a secret."""
    try:
        parts = urlsplit(location.decode("ascii"))
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "another address"
    if host:
        return shown(f"{parts.scheme or 'http'}://{host}", 200)
    return "another path" if location else "another address"


def width_of(rows: Callable[[bytes, int, int], Rows], body: bytes, sample: Sample) -> int:
    """The width of first vectors; UnfitReplicaError when they are none."""
    try:
        found = rows(body, len(sample.inputs[Form.IDS]), sample.tokens)
    except ReplicaError as error:
        raise UnfitReplicaError(error.message) from error
    if not found.right.all():
        raise UnfitReplicaError("its vectors are not finite or of zero length")
    width: int = found.vectors.shape[1]
    return width
