"""Client for third-party engines: SGLang, vLLM, TEI, llama.cpp, another gateway, any OpenAI API.

A shell that turns a pool's calls into embeddings requests and the responses into frames; detection,
dialects and the reading of responses have modules of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from embedfleet.models.description import ModelDescription
from embedfleet.models.tokenizer_library import TokenizerError
from embedfleet.server.gateway.replicas.third_party.answers import (
    Refusal,
    Search,
    judge_refusal,
    message_of,
    read_vectors,
)
from embedfleet.server.gateway.replicas.third_party.dialects import request_body
from embedfleet.server.gateway.replicas.third_party.discovery import DetectedEngine, EngineDetector
from embedfleet.server.gateway.replicas.third_party.facts import (
    DEFAULT_BATCH_TOKENS,
    Facts,
    changed,
)
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp, Reply, most_answer_bytes
from embedfleet.server.gateway.replicas.third_party.texts import TextForm
from embedfleet.server.gateway.replicas.third_party.window import LearnedWindow
from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import (
    DrainingError,
    Encoding,
    Precision,
    ReplicaError,
    ReplicaUnreachableError,
    Task,
    UnfitReplicaError,
)
from embedfleet.work import CostFit, CostModel

log = logging.getLogger(__name__)

RETRY_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Backoff before a refused request is retried."""

GPU = CostModel(per_batch_s=1e-2, per_token_s=2e-5, per_squared_token_s=1e-9)
"""Assumed cost of an engine before it is measured: a 0.6B model behind HTTP on a small GPU."""

NO_TEXT = "ids_not_text"
"""Error code for token ids that can't be sent to an engine that accepts only text."""


Sent: TypeAlias = tuple[int, Encoding | str]
"""A text's id in its call, and the input that is sent for it."""


@dataclass(slots=True)
class _Engine:
    """State of one engine."""

    known: DetectedEngine
    window: LearnedWindow
    cost: CostFit = field(default_factory=lambda: CostFit(GPU))
    trouble: str = ""
    """Why it was found unfit by a call; until it is discovered again."""


@dataclass(slots=True)
class _Call:
    """The requests of one call, with the unanswered texts of each."""

    requests: dict[asyncio.Task[frames.Frame], set[int]] = field(default_factory=dict)


class ForeignClient:
    """The client of a pool for third-party engines."""

    def __init__(
        self,
        http: EngineHttp,
        model: ModelDescription,
        *,
        precision: Precision | None,
        window_tokens: int,
        metrics_required: bool,
    ) -> None:
        """`model` is the pool's, with its tokenizer; `precision` is the pool's minimum."""
        self._http = http
        self._identity = model.identity
        self._precision = precision
        self._window_tokens = window_tokens
        self._texts = TextForm(model.tokenizer_file, model.template)
        self._host = EngineDetector(http, model.identity, self._texts.probe, metrics_required)
        self._engines: dict[str, _Engine] = {}
        self._first: dict[str, Facts] = {}
        """The model that each engine served when it was discovered; it must not change."""
        self._calls: dict[str, _Call] = {}

    async def describe(self, url: str) -> ReplicaDescription:
        """Describe the engine; the first probe has it compute a text."""
        engine = self._engines.get(url)
        try:
            if engine is None:
                engine = await self._detect(url)
            else:
                now = await self._host.read(url, engine.known.dialect)
                self._compare(url, now)
        except ReplicaError:
            # The next process at this address may be another engine.
            self._engines.pop(url, None)
            raise
        if engine.trouble:
            raise UnfitReplicaError(engine.trouble)
        return self._description(engine)

    async def fetch_files(self, url: str, directory: Path) -> None:  # noqa: ARG002
        raise UnfitReplicaError(
            f"{url} does not provide a tokenizer: name the directory of its model with --model DIR"
        )

    async def work(
        self, url: str, key: str, texts: Sequence[frames.CallText], take: frames.Take
    ) -> None:
        """Request the vectors in as few requests as the engine allows."""
        engine = self._engines.get(url)
        if engine is None:
            raise ReplicaUnreachableError(f"{url} has not been detected again since a probe failed")
        call = self._calls[key] = _Call()
        try:
            for part in _requests(texts, engine.known.facts.max_texts or len(texts)):
                request = asyncio.create_task(self._request(url, engine, part))
                call.requests[request] = {text.id for text in part}
            pending = set(call.requests)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                failed: BaseException | None = None
                for request in done:
                    if request.cancelled():
                        continue
                    if (error := request.exception()) is not None:
                        failed = failed or error
                    else:
                        take(request.result())
                if failed is not None:
                    # Raised last, so that no vector that has arrived is lost.
                    raise failed
        finally:
            self._calls.pop(key, None)
            for request in call.requests:
                request.cancel()
            await asyncio.gather(*call.requests, return_exceptions=True)

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:  # noqa: ARG002
        """Close a request when none of its texts is awaited, which makes engines cancel it."""
        call = self._calls.get(key)
        for request, waiting in list(call.requests.items()) if call else ():
            waiting.difference_update(ids)
            if not waiting:
                request.cancel()

    def forget(self, url: str) -> None:
        """Forget a removed engine; another one may take its address."""
        self._engines.pop(url, None)
        self._first.pop(url, None)

    # -- probing ------------------------------------------------------------------------

    async def _detect(self, url: str) -> _Engine:
        if self._identity.task is Task.RERANK:
            raise UnfitReplicaError(
                f"{url} is a third-party engine, which is not supported for reranking; use "
                "embedfleet's own replicas"
            )
        known = await self._host.detect(url)
        self._compare(url, known.facts)
        batch = known.facts.batch_tokens or DEFAULT_BATCH_TOKENS
        engine = _Engine(known, LearnedWindow(self._window_tokens, min(batch, self._window_tokens)))
        self._engines[url] = engine
        log.info("%s is %s, serving %s", url, shown(known.facts.engine), shown(known.facts.serving))
        return engine

    def _compare(self, url: str, now: Facts) -> None:
        difference = changed(self._first.setdefault(url, now), now)
        if difference:
            raise UnfitReplicaError(difference)

    def _description(self, engine: _Engine) -> ReplicaDescription:
        identity, facts = self._identity, engine.known.facts
        cost = engine.cost.model
        batch = min(facts.batch_tokens or DEFAULT_BATCH_TOKENS, self._window_tokens)
        return ReplicaDescription(
            name=identity.name,
            served_names=[facts.model],
            revision=identity.revision,
            tokenizer=identity.tokenizer,
            width=engine.known.width,
            max_tokens=identity.max_tokens,
            vocabulary=identity.vocabulary,
            prompts=identity.prompts,
            task=identity.task,
            precision=facts.precision or self._precision or Precision.BF16,
            device=facts.engine + (f" ({engine.known.note})" if engine.known.note else ""),
            batch_tokens=batch,
            window=engine.window.tokens,
            cost=(cost.per_batch_s, cost.per_token_s, cost.per_squared_token_s),
            draining=False,
        )

    # -- work ---------------------------------------------------------------------------

    async def _request(
        self, url: str, engine: _Engine, texts: Sequence[frames.CallText]
    ) -> frames.Frame:
        """One frame for all of these texts."""
        started, seconds, window = time.monotonic(), 0.0, engine.window.tokens
        if engine.known.dialect.takes_ids or self._texts.linear:
            sendable, failures = self._inputs(engine, texts)
        else:
            sendable, failures = await asyncio.to_thread(self._inputs, engine, texts)
        answered: list[frames.Frame] = []
        if sendable:
            answered = await self._ask(url, engine, sendable, Search.among(len(sendable)))
            seconds, lengths = time.monotonic() - started, [len(text.encoding) for text in texts]
            engine.cost.learn(lengths, seconds)
            window = engine.window.answered(sum(lengths), seconds)
        sent = {text.id: text.ids for text in texts}
        ids = [number for frame in answered for number in frame.ids]
        return frames.Frame(
            ids,
            b"".join(frame.vectors for frame in answered),
            failures=failures + [each for frame in answered for each in frame.failures],
            queue_us=0,
            compute_us=round(seconds * 1e6),
            window=window,
            # Vectors are identified by their order in the request alone.
            echoes=[frames.echo(sent[number]) for number in ids],
        )

    def _inputs(
        self, engine: _Engine, texts: Sequence[frames.CallText]
    ) -> tuple[list[Sent], list[frames.Failure]]:
        """Each text's id and input, and the texts that can't be sent."""
        if engine.known.dialect.takes_ids:
            return [(text.id, text.encoding) for text in texts], []
        sendable: list[Sent] = []
        failures = []
        for text in texts:
            try:
                spelled = self._texts.of(text.encoding)
            except TokenizerError as error:
                failures.append(frames.Failure(text.id, NO_TEXT, error.message))
                continue
            if spelled is None:
                message = (
                    "these token ids are not what any text is encoded as, and the engine behind "
                    "this pool takes text only; send the text"
                )
                failures.append(frames.Failure(text.id, NO_TEXT, message))
            else:
                sendable.append((text.id, spelled))
        return sendable, failures

    async def _ask(
        self, url: str, engine: _Engine, inputs: Sequence[Sent], search: Search
    ) -> list[frames.Frame]:
        """Send a request; bisect it when it is refused, to find the text that is the cause."""
        reply = await self._post(url, engine, inputs)
        if reply.status == 200:
            search.answered += len(inputs)
            return [self._frame(reply.body, [number for number, _ in inputs])]
        message = message_of(reply.body)
        marker = engine.known.dialect.too_long
        if marker and marker in message:
            engine.trouble = f"it was started for shorter texts than the pool's: {message}"
            raise UnfitReplicaError(engine.trouble)
        blames_text = judge_refusal(reply.status) is Refusal.TEXT
        if len(inputs) == 1 and (blames_text or search.answered):
            failure = frames.Failure(inputs[0][0], "invalid_vector", f"the engine says: {message}")
            return [frames.Frame([], b"", [failure], 0, 0, engine.window.tokens)]
        if len(inputs) == 1 or not search.may_halve():
            raise ReplicaError(f"{url} answered {reply.status}: {message}")
        half = len(inputs) // 2
        found = await self._ask(url, engine, inputs[:half], search)
        return found + await self._ask(url, engine, inputs[half:], search)

    async def _post(self, url: str, engine: _Engine, inputs: Sequence[Sent]) -> Reply:
        """Send a request; retry with a smaller window while the engine sheds load."""
        known = engine.known
        body = request_body(known.dialect, known.facts.model, [each for _, each in inputs])
        most_bytes = most_answer_bytes(len(inputs), self._identity.width)
        for wait_s in (*RETRY_PAUSES_S, None):
            reply = await self._http.post(f"{url}/v1/embeddings", body, most_bytes)
            refusal = None if reply.status == 200 else judge_refusal(reply.status)
            if refusal is Refusal.KEY:
                raise UnfitReplicaError(self._host.key_trouble(reply))
            if refusal is not Refusal.BUSY:
                return reply
            engine.window.refused()
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        raise DrainingError(f"{url} is overloaded: {message_of(reply.body)}")

    def _frame(self, body: bytes, ids: list[int]) -> frames.Frame:
        rows = read_vectors(body, len(ids))
        if rows.vectors.shape[1] != self._identity.width:
            raise ReplicaError(
                f"it answers vectors of {rows.vectors.shape[1]} dimensions, not "
                f"{self._identity.width}"
            )
        if len(ids) > 1 and not rows.right.any():
            raise ReplicaError("none of its vectors is finite and longer than zero")
        good = [number for number, right in zip(ids, rows.right, strict=True) if right]
        bad = [number for number, right in zip(ids, rows.right, strict=True) if not right]
        return frames.Frame(
            ids=good,
            vectors=frames.vector_bytes(rows.vectors[rows.right]),
            failures=[
                frames.Failure(number, "invalid_vector", "no finite vector") for number in bad
            ],
            queue_us=0,
            compute_us=0,
            window=0,
        )


def _requests(texts: Sequence[frames.CallText], most: int) -> Iterator[Sequence[frames.CallText]]:
    """Group texts into requests; a text suspected of crashing engines is sent alone."""
    together = [text for text in texts if not text.alone]
    yield from ([text] for text in texts if text.alone)
    yield from (together[at : at + most] for at in range(0, len(together), most))
