"""Client for third-party engines: SGLang, vLLM, TEI, llama.cpp, another gateway, any OpenAI API.

A shell that turns a pool's calls into requests for vectors or scores and the responses into frames;
detection, dialects, requests and the reading of responses have modules of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedfleet.models.description import ModelDescription
from embedfleet.models.reranker import INSTRUCTION, PAIR, pair_prompt, scoring_of
from embedfleet.models.tokenizer_library import TokenizerError
from embedfleet.server.gateway.replicas.third_party.answers import (
    LARGE_BYTES,
    Refusal,
    Search,
    is_no_json,
    judge_refusal,
)
from embedfleet.server.gateway.replicas.third_party.asking import (
    Form,
    Input,
    MiscountError,
    ScoreAsking,
)
from embedfleet.server.gateway.replicas.third_party.discovery import (
    DetectedEngine,
    EngineDetector,
    Sample,
)
from embedfleet.server.gateway.replicas.third_party.facts import (
    DEFAULT_BATCH_TOKENS,
    Facts,
    changed,
)
from embedfleet.server.gateway.replicas.third_party.http import EngineHttp, Reply, most_answer_bytes
from embedfleet.server.gateway.replicas.third_party.texts import Pair, PairForm, TextForm
from embedfleet.server.gateway.replicas.third_party.window import LearnedWindow
from embedfleet.transport import frames
from embedfleet.transport.description import ReplicaDescription
from embedfleet.transport.headers import asked_wait_s
from embedfleet.transport.untrusted import message_of, shown
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

RETRY_PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Backoff before a refused request is retried: together less than a call may be quiet before it is
late (`scheduling.delivery.decisions.LEAST_QUIET_S`), as an engine that refuses does not hang."""

GPU = CostModel(per_batch_s=1e-2, per_token_s=2e-5, per_squared_token_s=1e-9)
"""Assumed cost of an engine before it is measured: a 0.6B model behind HTTP on a small GPU."""

NO_TEXT = "ids_not_text"
"""Error code for token ids that can't be sent to an engine that accepts only text."""

SAMPLE_TEXT, OTHER_TEXT = "the sea", "a river"
"""What discovery has an engine compute: the first, or for scores the pairs of the first with both.
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A text and what is sent for it."""

    id: int
    """In its call."""
    input: Input
    tokens: int
    alone: bool
    """Whether it is suspected of crashing engines."""
    together: tuple[str, str] = ("", "")
    """Instruction and query of a pair that is sent as texts; those of a request have the same."""


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
    cancelled: set[int] = field(default_factory=set)
    """Texts without waiters, also those that no request has yet."""


class ThirdPartyClient:
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
        reranks = model.identity.task is Task.RERANK
        self._pairs = PairForm(self._texts, model.identity.prompts) if reranks else None
        self._host = EngineDetector(
            http,
            model.identity,
            self._sample(),
            model.pooling,
            scoring_of(model.directory) if reranks else None,
            metrics_required,
        )
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
            sendable, failures = await self._sendable(engine, texts)
            if failures:
                take(frames.Frame([], b"", failures, 0, 0, engine.window.tokens))
            wanted = [one for one in sendable if one.id not in call.cancelled]
            ids = {text.id: text.ids for text in texts}
            for part in _requests(wanted, engine.known.facts.max_texts or len(texts)):
                request = asyncio.create_task(self._request(url, engine, part, ids))
                call.requests[request] = {one.id for one in part}
            await _answered(set(call.requests), take)
        finally:
            self._calls.pop(key, None)
            for request in call.requests:
                request.cancel()
            await asyncio.gather(*call.requests, return_exceptions=True)

    async def cancel(self, url: str, key: str, ids: Sequence[int]) -> None:  # noqa: ARG002
        """Close a request when none of its texts is awaited, which makes engines cancel it."""
        call = self._calls.get(key)
        if call is None:
            return
        call.cancelled.update(ids)
        for request, waiting in list(call.requests.items()):
            waiting.difference_update(ids)
            if not waiting:
                request.cancel()

    def forget(self, url: str) -> None:
        """Forget a removed engine; another one may take its address."""
        self._engines.pop(url, None)
        self._first.pop(url, None)

    # -- probing ------------------------------------------------------------------------

    def _sample(self) -> Sample:
        """What discovery has an engine compute."""
        if self._pairs is None:
            probe = self._texts.encoding(SAMPLE_TEXT)
            return Sample({Form.IDS: [probe], Form.TEXT: [SAMPLE_TEXT]}, len(probe))
        prompts = self._identity.prompts
        before = pair_prompt(prompts, SAMPLE_TEXT, None)
        documents = (SAMPLE_TEXT, OTHER_TEXT)
        encodings = [self._texts.encoding(before + document) for document in documents]
        instruction = self._instruction
        pairs = [Pair(instruction, SAMPLE_TEXT, document) for document in documents]
        return Sample({Form.IDS: encodings, Form.PAIR: pairs}, sum(map(len, encodings)))

    @property
    def _instruction(self) -> str:
        """The reranker's own; empty where its template has no place for one."""
        prompts = self._identity.prompts
        return prompts.get(INSTRUCTION, "") if "{instruction}" in prompts[PAIR] else ""

    async def _detect(self, url: str) -> _Engine:
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
        self, url: str, engine: _Engine, part: Sequence[Sent], texts: Mapping[int, bytes]
    ) -> frames.Frame:
        """One frame for all of these texts; `texts` are their ids, as the call has them."""
        started = time.monotonic()
        answered = await self._ask(url, engine, part, Search.among(len(part)))
        seconds, lengths = time.monotonic() - started, [one.tokens for one in part]
        engine.cost.learn(lengths, seconds)
        window = engine.window.answered(sum(lengths), seconds)
        ids = [number for frame in answered for number in frame.ids]
        return frames.Frame(
            ids,
            b"".join(frame.vectors for frame in answered),
            failures=[each for frame in answered for each in frame.failures],
            queue_us=0,
            compute_us=round(seconds * 1e6),
            window=window,
            # Vectors are identified by their order in the request alone.
            echoes=[frames.echo(texts[number]) for number in ids],
        )

    async def _sendable(
        self, engine: _Engine, texts: Sequence[frames.CallText]
    ) -> tuple[list[Sent], list[frames.Failure]]:
        """What is sent for each text, and the texts that can't be sent."""
        if engine.known.asking.form is Form.IDS or self._texts.linear:
            return self._inputs(engine, texts)
        return await asyncio.to_thread(self._inputs, engine, texts)

    def _inputs(
        self, engine: _Engine, texts: Sequence[frames.CallText]
    ) -> tuple[list[Sent], list[frames.Failure]]:
        sendable: list[Sent] = []
        failures = []
        asking, most = engine.known.asking, engine.known.facts.max_tokens
        room = most - asking.spare if most and isinstance(asking, ScoreAsking) else None
        for text in texts:
            ids, found, why = text.encoding, None, "it is longer than the engine accepts"
            try:
                if room is None or len(ids) <= room:
                    found, why = self._input(engine, ids)
                if found is None and len(ids) == self._identity.max_tokens:
                    found, ids = self._shortened(engine, ids)
            except TokenizerError as error:
                found, why = None, error.message
            if found is None:
                failures.append(frames.Failure(text.id, NO_TEXT, why))
                continue
            together = found[:2] if isinstance(found, Pair) else ("", "")
            sendable.append(Sent(text.id, found, len(ids), text.alone, together))
        return sendable, failures

    def _shortened(self, engine: _Engine, encoding: Encoding) -> tuple[Input | None, Encoding]:
        """What is sent for a text as long as the model takes, which was cut perhaps, where no text
        has its tokens: the text of a few tokens less.
        """
        for ids in self._texts.shortened(encoding):
            found, _ = self._input(engine, ids)
            if found is not None:
                return found, ids
        return None, encoding

    def _input(self, engine: _Engine, ids: Encoding) -> tuple[Input | None, str]:
        """What is sent for token ids; None, and why, where nothing can be."""
        asking = engine.known.asking
        if asking.form is Form.IDS:
            return ids, ""
        if self._pairs is None:
            return self._texts.of(ids), (
                "these token ids are not what any text is encoded as, and the engine behind "
                "this pool takes text only; send the text"
            )
        pair = self._pairs.of(ids)
        if pair is None or not isinstance(asking, ScoreAsking):
            return None, (
                "the engine behind this pool takes query and document as texts, and the tokens of "
                "this pair are not what any texts are encoded as"
            )
        if not asking.instructs and pair.instruction != self._instruction:
            return None, (
                "the engine behind this pool has the model's own instruction in its template and "
                "takes no other; leave `instruction` out"
            )
        if asking.placeholder and asking.placeholder in pair.query:
            return None, (
                "the engine behind this pool puts the document wherever a query has "
                f"{asking.placeholder}; leave it out"
            )
        return pair, ""

    async def _ask(
        self, url: str, engine: _Engine, inputs: Sequence[Sent], search: Search
    ) -> list[frames.Frame]:
        """Send a request; bisect it when it is refused, or its answer can't be read, to find the
        text that is the cause.
        """
        reply = await self._post(url, engine, inputs)
        if reply.status == 200:
            try:
                frame = await self._read(engine, reply.body, inputs)
            except MiscountError as error:
                return await self._halve(url, engine, inputs, search, error.message, blames=True)
            except ReplicaError as error:
                if not is_no_json(error):
                    raise
                return await self._halve(url, engine, inputs, search, error.message, blames=False)
            search.answered += len(inputs)
            return [frame]
        message = message_of(reply.body)
        marker = engine.known.dialect.too_long
        if marker and marker in message:
            engine.trouble = f"it was started for shorter texts than the pool's: {message}"
            raise UnfitReplicaError(engine.trouble)
        blames = judge_refusal(reply.status) is Refusal.TEXT
        said = f"the engine says: {message}"
        if not blames:
            said = f"it answered {reply.status}: {message}"
        return await self._halve(url, engine, inputs, search, said, blames=blames)

    async def _halve(
        self,
        url: str,
        engine: _Engine,
        inputs: Sequence[Sent],
        search: Search,
        said: str,
        *,
        blames: bool,
    ) -> list[frames.Frame]:
        """Ask again in halves after a failure, which `blames` a text or is the engine's own.
        ReplicaError where it is no single text's.
        """
        if len(inputs) == 1 and (blames or search.answered):
            failure = frames.Failure(inputs[0].id, "invalid_vector", said)
            return [frames.Frame([], b"", [failure], 0, 0, engine.window.tokens)]
        if len(inputs) == 1 or not search.may_halve():
            raise ReplicaError(said)
        half = len(inputs) // 2
        found = await self._ask(url, engine, inputs[:half], search)
        return found + await self._ask(url, engine, inputs[half:], search)

    async def _post(self, url: str, engine: _Engine, inputs: Sequence[Sent]) -> Reply:
        """Send a request; retry with a smaller window while the engine sheds load."""
        known = engine.known
        body = known.asking.request(known.facts.model, [one.input for one in inputs])
        most_bytes = most_answer_bytes(len(inputs), self._identity.width)
        for wait_s in (*RETRY_PAUSES_S, None):
            reply = await self._http.post(f"{url}{known.asking.path}", body, most_bytes)
            self._host.check_setup(reply)
            if judge_refusal(reply.status) is not Refusal.BUSY:
                return reply
            engine.window.refused()
            asked_s = asked_wait_s(reply.retry_after, time.time())
            if wait_s is None or asked_s > RETRY_PAUSES_S[-1]:
                break
            await asyncio.sleep(max(wait_s, asked_s))
        raise DrainingError(
            f"it is overloaded ({reply.status}): {message_of(reply.body)}", retry_after_s=asked_s
        )

    async def _read(self, engine: _Engine, body: bytes, inputs: Sequence[Sent]) -> frames.Frame:
        if len(body) <= LARGE_BYTES:
            return self._frame(engine, body, inputs)
        return await asyncio.to_thread(self._frame, engine, body, inputs)

    def _frame(self, engine: _Engine, body: bytes, inputs: Sequence[Sent]) -> frames.Frame:
        ids = [one.id for one in inputs]
        tokens = sum(one.tokens for one in inputs)
        rows = engine.known.asking.rows(body, len(ids), tokens, self._identity.width)
        if rows.vectors.shape[1] != self._identity.width:
            raise ReplicaError(
                f"it answers vectors of {rows.vectors.shape[1]} dimensions, not "
                f"{self._identity.width}"
            )
        if len(ids) > 1 and not rows.right.any():
            raise ReplicaError("none of its vectors or scores is finite, or longer than zero")
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


async def _answered(pending: set[asyncio.Task[frames.Frame]], take: frames.Take) -> None:
    """Take the frames of all requests as they come. Raises what one of them raised, after all that
    have arrived with it are taken.
    """
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
            raise failed


def _requests(inputs: Sequence[Sent], most: int) -> Iterator[Sequence[Sent]]:
    """Group texts into requests; a text suspected of crashing engines is sent alone."""
    yield from ([one] for one in inputs if one.alone)
    groups: dict[tuple[str, str], list[Sent]] = {}
    for one in inputs:
        if not one.alone:
            groups.setdefault(one.together, []).append(one)
    for together in groups.values():
        yield from (together[at : at + most] for at in range(0, len(together), most))
