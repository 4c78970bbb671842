"""The model of a pool: read from this machine, or learned from the first replica.

A replica describes its model and hands over the small files that a gateway needs, such as the
tokenizer. Also checks a replica's golden vectors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import numpy as np

from embedfleet.api.served_model import UNKNOWN, ModelVersion
from embedfleet.fleet.health import Expected
from embedfleet.fleet.replica_client import ReplicaClient, embed
from embedfleet.models.description import ModelDescription, describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.models.encoding.prompts import prompt_for
from embedfleet.models.files import SHARED_FILES
from embedfleet.models.fingerprint import fingerprint_tokenizer
from embedfleet.models.golden import vectors as golden_vectors
from embedfleet.models.golden.vectors import (
    GoldenVectors,
    Verdict,
    compare,
    known_file,
    of_unit_length,
)
from embedfleet.runtime.process import shrink_heap
from embedfleet.runtime.settings import Pool as PoolSettings
from embedfleet.server.gateway.pools.scratch import Scratch
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import (
    Encoding,
    ModelError,
    ModelIdentity,
    Precision,
    ReplicaError,
    Task,
    Truncation,
    UnfitReplicaError,
    Vectors,
)

log = logging.getLogger(__name__)

PROBE_TEXTS = ("the sea", "a river", "two mountains")
"""What replicas of pools without golden vectors compute in their place; a reranker the pair of the
first with itself."""

GLANCE_TEXTS = 2
"""Golden texts that a glance has computed: two, as an engine may confuse the rows of a batch."""

GOLDEN_FILE = "golden.safetensors"
"""The file name of golden vectors beside a model's weights."""


def golden_file(settings: PoolSettings, revision: str, directory: Path) -> Path | None:
    """The golden vectors of a model: those that the settings name, those that ship with embedfleet,
    or those beside its files in `directory`; None where there are none.
    """
    beside = directory / GOLDEN_FILE
    return settings.golden or known_file(revision) or (beside if beside.is_file() else None)


class Trust(Protocol):
    """Notified of golden checks by a replica's address, to drop vectors of one that fails."""

    def checking(self, url: str) -> None: ...

    def trusted(self, url: str) -> None: ...

    async def distrusted(self, url: str) -> None: ...


class ModelContact:
    """A pool's model and its golden checks: implements `fleet.contact.Contact`."""

    def __init__(
        self,
        settings: PoolSettings,
        client: ReplicaClient,
        scratch: Scratch,
        *,
        known: ModelDescription | None,
        introduced: Callable[[ModelDescription, Encoder], Awaitable[None]],
        refused: Callable[[], None],
        drifted: Callable[[float], None],
        trust: Trust | None = None,
    ) -> None:
        """`known` is the model if the gateway has its files; else `introduced` is awaited when a
        replica has described it, and may refuse that replica. `drifted` is called with the result
        of every golden check.
        """
        self._settings = settings
        self._client = client
        self._scratch = scratch
        self._model = known
        self._identity: ModelIdentity | None = None
        self._precision = settings.precision
        """The pool's precision: as configured, or the first verified replica's."""
        self._claimed: dict[str, Precision] = {}
        """The precision that each replica reports."""
        self._golden: GoldenVectors | None = None
        self._probes: Sequence[Encoding] = ()
        """What is computed where there are no golden vectors."""
        self._proven: dict[str, Vectors] = {}
        """By address, what a replica gave for these when it joined."""
        self._introduced = introduced
        self._refused = refused
        self._trust = trust
        self._drifted = drifted
        self._version: ModelVersion | None = None
        self._bad: dict[tuple[object, ...], str] = {}
        """The files that could not be used last, and why."""
        self._lock = asyncio.Lock()

    def version(self) -> ModelVersion | None:
        """The version that the pool serves: known from the settings and the model's files, else
        from the first verified replica.
        """
        if self._version is None and self._precision is not None:
            identity = self._identity or (self._model.identity if self._model else None)
            if identity is not None and (identity.revision or self._identity is not None):
                # Without a revision vectors are valid in this process only, whose replicas may not
                # change to another model.
                revision = identity.revision or f"{UNKNOWN}{uuid4().hex}"
                self._version = ModelVersion(revision, self._precision)
        return self._version

    async def describe(self, url: str) -> ReplicaDescription:
        return await self._client.describe(url)

    async def expected(self, url: str, description: ReplicaDescription) -> Expected:
        """What replicas must match. The first one to answer decides what is not configured,
        except the precision: a replica with wrong vectors must not exclude the right ones.
        """
        self._claimed[url] = description.precision
        async with self._lock:
            if self._identity is None:
                model = self._model
                if model is None:
                    model, encoder = await self._fetch(url, description)
                    await self._introduced(model, encoder)
                identity = model.identity
                if not identity.revision:
                    # The gateway has no weights to fingerprint: the first replica's revision
                    # counts.
                    identity = replace(identity, revision=description.revision)
                self._golden = self._find_golden(identity.revision, model)
                if self._golden is None:
                    self._probes = await asyncio.to_thread(_probes, model)
                self._identity = identity
            return Expected(self._identity, self._precision or description.precision)

    def forget(self, url: str) -> None:
        """Forget a removed replica; another may take its address."""
        self._claimed.pop(url, None)
        self._proven.pop(url, None)
        self._client.forget(url)

    async def verify(self, url: str) -> str:
        """Check the golden vectors; returns what is wrong, empty if nothing is."""
        if self._identity is None:
            raise ReplicaError("the model is not known yet")
        if self._trust is not None:
            self._trust.checking(url)
        precision = self._precision_of(url)
        encodings = self._probes if self._golden is None else self._golden.encodings
        vectors = await embed(self._client, url, encodings, self._identity.width)
        verdict = await self._judged(url, self._golden, vectors)
        if self._golden is not None:
            # Vectors that are not finite have no cosine and count as the maximum distance.
            self._drifted(1.0 - verdict.least_cosine if isfinite(verdict.least_cosine) else 1.0)
        if verdict.passed:
            if self._trust is not None:
                self._trust.trusted(url)
            self._precision = self._precision or precision
        return verdict.reason

    async def glance(self, url: str) -> str:
        """Check the vectors of the shortest golden texts, before those of callers; returns what is
        wrong, empty if nothing is. ReplicaError for what are no vectors: in an answer to callers
        that is seen, too.
        """
        if self._identity is None:
            raise ReplicaError("the model is not known yet")
        golden = None if self._golden is None else self._golden.shortest(GLANCE_TEXTS)
        encodings = self._probes if golden is None else golden.encodings
        vectors = await embed(self._client, url, encodings, self._identity.width, bulk=False)
        if not of_unit_length(vectors).all():
            raise ReplicaError("its vectors are not of unit length")
        return (await self._judged(url, golden, vectors)).reason

    def _precision_of(self, url: str) -> Precision:
        """The precision that the vectors of a replica must have."""
        return self._precision or self._claimed.get(url, Precision.F32)

    async def _judged(self, url: str, golden: GoldenVectors | None, vectors: Vectors) -> Verdict:
        """Judge vectors of golden texts, without them those of the probes; what a replica with
        wrong ones has answered is not believed any more.
        """
        precision = self._precision_of(url)
        if golden is None:
            wrong = self._unlike_itself(url, vectors, precision)
            verdict = Verdict(not wrong, float("nan"), wrong)
        else:
            verdict = compare(golden, vectors, precision)
        if not verdict.passed:
            self._refused()
            if self._trust is not None:
                await self._trust.distrusted(url)
        return verdict

    def _unlike_itself(self, url: str, vectors: Vectors, precision: Precision) -> str:
        """What is wrong with vectors of the probes, where the right ones are unknown: no vectors,
        one for different texts, or others than the replica gave when it joined, unless most of the
        other replicas gave these: then it was wrong when it joined.
        """
        if not of_unit_length(vectors).all():
            return "its vectors are not of unit length"
        for at, other in combinations(range(len(vectors)), 2):
            same_text = np.array_equal(self._probes[at], self._probes[other])
            if np.array_equal(vectors[at], vectors[other]) and not same_text:
                return "it gives one vector for different texts"
        before = self._proven.setdefault(url, vectors)
        if _alike(before, vectors, precision):
            return ""
        others = [proven for other, proven in self._proven.items() if other != url]
        alike = sum(_alike(other, vectors, precision) for other in others)
        if 2 * alike > len(others):
            self._proven[url] = vectors
            return ""
        least = float(np.vecdot(before, vectors).min())
        return (
            f"its vectors are others than when it joined (cosine {least:.4f}): another model or "
            "another file of it. Start the old one again, or restart the gateway if the new one is "
            "meant"
        )

    async def touch(self, url: str) -> int:
        """Have it compute one short text with priority; returns its tokens."""
        if self._identity is None:
            raise ReplicaError("the model is not known yet")
        golden = self._golden
        text = min(self._probes if golden is None else golden.encodings, key=len)
        vectors = await embed(self._client, url, [text], self._identity.width, bulk=False)
        if not of_unit_length(vectors).all():
            raise ReplicaError("its vectors are not of unit length")
        return len(text)

    async def _fetch(
        self, url: str, description: ReplicaDescription
    ) -> tuple[ModelDescription, Encoder]:
        """Fetch a replica's model files; returns the model and its encoder."""
        directory = self._scratch.directory("model-")
        found: tuple[ModelDescription, Encoder] | None = None
        try:
            await self._client.fetch_files(url, directory)
            found = await self._load(directory, description)
        except ModelError as error:
            words = shown(error.message.replace(f"{directory}/", ""))
            raise ReplicaError(f"the model files of {url}: {words}") from error
        finally:
            if found is None:
                shutil.rmtree(directory, ignore_errors=True)
        return found

    async def _load(
        self, directory: Path, description: ReplicaDescription
    ) -> tuple[ModelDescription, Encoder]:
        """Raises ModelError unless the files match the description and can be used."""
        found, told = fingerprint_tokenizer(directory), description.tokenizer
        if found != told:
            raise ModelError(
                f"tokenizer.json has the fingerprint {found}, and it says that it has {told}"
            )
        digest = await asyncio.to_thread(_digest, directory)
        tried = (digest, description.name, description.max_tokens, description.task)
        if tried in self._bad:
            raise ModelError(self._bad[tried].replace("{directory}", str(directory)))
        try:
            return await asyncio.to_thread(_loaded, directory, description)
        except ModelError as error:
            # Each probe fetches the files into a new directory.
            self._bad = {tried: error.message.replace(str(directory), "{directory}")}
            raise

    def _find_golden(self, revision: str, model: ModelDescription) -> GoldenVectors | None:
        path = golden_file(self._settings, revision, model.directory)
        if path is None:
            log.warning(
                "no golden vectors for %s: a replica is only compared with what it gave when it "
                "joined; create them with `embedfleet golden make`",
                model.identity.name,
            )
            return None
        golden = golden_vectors.read(path)
        if golden.revision != revision:
            raise UnfitReplicaError(
                f"{path} holds golden vectors of revision {golden.revision}, the model is "
                f"{revision}; make new ones with `embedfleet golden make`"
            )
        return golden


def _alike(one: Vectors, other: Vectors, precision: Precision) -> bool:
    """Whether the vectors of two replicas, or of one at two times, are of one model. Both are of
    shape [texts, width].
    """
    return bool(np.vecdot(one, other).min() >= precision.least_cosine)


def _loaded(directory: Path, told: ReplicaDescription) -> tuple[ModelDescription, Encoder]:
    model = describe(directory, name=told.name, max_tokens=told.max_tokens, task=told.task)
    encoder = Encoder(model)
    shrink_heap()
    return model, encoder


def _digest(directory: Path) -> bytes:
    """A digest of all files that a replica handed over."""
    digest = blake2b(digest_size=16)
    for name in SHARED_FILES:
        with contextlib.suppress(OSError):
            content = (directory / name).read_bytes()
            digest.update(b"%b %d " % (name.encode(), len(content)))
            digest.update(content)
    return digest.digest()


def _probes(model: ModelDescription) -> list[Encoding]:
    """Short texts, or a pair of a reranker's, as callers send them: engines that are sent texts
    take no ids that no text has. Raises ModelError.
    """
    encoder = Encoder(model)
    texts, prompt = list(PROBE_TEXTS), ""
    if model.identity.task is Task.RERANK:
        texts, prompt = texts[:1], prompt_for(model.identity, None, None, texts[0])
    try:
        found = encoder.encode(texts, prompt=prompt, truncate=Truncation.END)
        return [each.ids for each in found]
    finally:
        encoder.close()
