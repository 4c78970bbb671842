"""HTTP service of a replica: turns calls into batcher jobs and streams results back as frames."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from embedfleet.api.contracts.rerank import ROUTES
from embedfleet.api.endpoint import Endpoint
from embedfleet.api.routes import render_for
from embedfleet.engines.protocol import Engine
from embedfleet.models.files import SHARED_FILES, Snapshot
from embedfleet.runtime.telemetry.gpu import open_gpu
from embedfleet.runtime.telemetry.metrics import CONTENT_TYPE, ReplicaMetrics
from embedfleet.runtime.telemetry.tracing import Tracing, current_span
from embedfleet.scheduling.batching.batcher import Batcher
from embedfleet.scheduling.batching.jobs import BatchReport, BatchResult, Job
from embedfleet.scheduling.texts import Caller, Text
from embedfleet.transport import frames
from embedfleet.transport.asgi import Request, Response, Router
from embedfleet.transport.content_encodings import expanded
from embedfleet.transport.description import MOST_SECONDS, ReplicaDescription, encode_description
from embedfleet.transport.traced_routes import traced
from embedfleet.vocabulary import (
    CallerError,
    DrainingError,
    Lane,
    ModelIdentity,
    OverloadedError,
    UnknownRouteError,
    retry_after_s,
)

NEXT_BATCHES = 1
"""Batches that gateways may have outstanding beyond those that compute. Fewer would leave the
engine idle between batches; more would only make texts wait where they can't be moved."""


GATEWAY_FORGOTTEN_S = 5.0
"""A gateway that has sent nothing for so long gets no share of the window."""

FILES_PATH = "/v1/replica/files/"


class DuplicateCallError(CallerError):
    """A call's key is that of another one in progress."""

    status = 409


class ChangedFileError(CallerError):
    """A file of the model is no longer the one that the replica was loaded from."""

    status = 409
    code = "file_changed"


class CallInProgress:
    """The unanswered texts of one call, and results that wait to be sent."""

    def __init__(self, count: int) -> None:
        self.jobs: dict[int, Job] = {}
        self.remaining = count
        self._parts: asyncio.Queue[BatchResult | None] = asyncio.Queue()

    def deliver(self, part: BatchResult) -> None:
        self.remaining -= len(part.jobs) + len(part.failures)
        self._parts.put_nowait(part)

    def forget(self, count: int) -> None:
        """Expect `count` texts fewer: they were cancelled."""
        self.remaining -= count
        self._parts.put_nowait(None)

    async def next_part(self) -> BatchResult | None:
        """The next part; None when texts were cancelled meanwhile."""
        return await self._parts.get()

    @property
    def finished(self) -> bool:
        return self.remaining <= 0 and self._parts.empty()


class Replica:
    """The routes of a replica process."""

    def __init__(
        self,
        engine: Engine,
        identity: ModelIdentity,
        *,
        served_names: Sequence[str],
        files: Snapshot,
        max_body_bytes: int,
        max_queued_tokens: int,
        metrics: ReplicaMetrics | None = None,
        hung_after_s: float = 30.0,
    ) -> None:
        """`files` are those that the engine was loaded from; gateways may fetch the small ones."""
        self.identity = identity
        self.metrics = metrics or ReplicaMetrics()
        self._succeeded, self._failed = map(self.metrics.texts.labels, ("succeeded", "failed"))
        self.batcher = Batcher(
            engine, report=self._measure, failed=self._failed.inc, hung_after_s=hung_after_s
        )
        self.draining = False
        self._busy_s = 0.0
        self._engine = engine
        self._gpu = open_gpu(engine.info.device_uuid)
        self._served_names = tuple(served_names)
        self._files = files
        self._max_body_bytes = max_body_bytes
        self._max_queued_tokens = max_queued_tokens
        self._calls: dict[str, CallInProgress] = {}
        self._open_calls = 0
        self._heard: dict[str, float] = {}
        """Time of each gateway's last call, monotonic seconds."""

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, computing or being sent."""
        return self.batcher.idle and not self._open_calls

    @property
    def window(self) -> int:
        """Tokens that one gateway may have outstanding: its share of the batches that compute and
        the next one.

        Long texts that are computed concurrently with batches are added: they do not delay short
        ones in the engine, so they must not take their room in the window.
        """
        heard_after = time.monotonic() - GATEWAY_FORGOTTEN_S
        self._heard = {name: at for name, at in self._heard.items() if at > heard_after}
        batcher = self.batcher
        batches = self._engine.info.in_flight + NEXT_BATCHES
        tokens = batches * batcher.budget_tokens + batcher.long_tokens
        return tokens // max(1, len(self._heard))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Validate and queue. Raises DrainingError, OverloadedError, CallerError, or ReplicaError
        if the engine is lost; then nothing is queued."""
        if self.draining:
            raise DrainingError(
                "this replica is draining; send the text to another", retry_after_s=1
            )
        tokens = sum(job.tokens for job in jobs)
        waiting = self.batcher.waiting_tokens
        if waiting and waiting + tokens > self._max_queued_tokens:
            seconds = self.batcher.cost.usual.linear_seconds(waiting)
            raise OverloadedError(
                f"{waiting} tokens are queued already and {tokens} more would exceed the limit of "
                f"{self._max_queued_tokens} (replica.max_queued_tokens)",
                retry_after_s=retry_after_s(seconds),
            )
        if jobs:
            self._check(jobs)
        self.batcher.submit(jobs)

    def app(self, endpoint: Endpoint, tracing: Tracing | None = None) -> Router:
        """The ASGI app: the wire protocol, the OpenAI endpoint, health and metrics."""
        work = traced(self.work, tracing, "POST /v1/work", join=True)
        return Router(
            {
                ("POST", "/v1/work"): work,
                ("POST", "/v1/work/cancel"): self.cancel,
                ("POST", "/v1/embeddings"): endpoint.embeddings,
                **{("POST", path): endpoint.by(each) for path, each in ROUTES.items()},
                ("GET", "/v1/models"): endpoint.cards.list_models,
                ("GET", "/v1/replica"): self.describe,
                ("GET", "/health/live"): self.live,
                ("GET", "/health/ready"): self.ready,
                ("GET", "/metrics"): self.expose,
            },
            {
                ("GET", "/v1/models/"): endpoint.cards.show_model,
                ("GET", FILES_PATH): self.file,
            },
            expand=expanded,
            render=render_for,
        )

    async def work(self, request: Request) -> None:
        """Compute the texts of a call; frames are sent as batches finish."""
        call = frames.decode_call(await request.body(self._max_body_bytes))
        progress = CallInProgress(len(call.texts))
        now = self._heard[call.gateway] = time.monotonic()
        for text in call.texts:
            progress.jobs[text.id] = Job(
                text.id,
                text.encoding,
                Lane.BULK if text.bulk else Lane.INTERACTIVE,
                now + text.deadline_ms / 1000 if text.deadline_ms else None,
                now,
                progress.deliver,
                text.alone,
            )
        jobs = list(progress.jobs.values())
        if (span := current_span()) is not None:
            span.tell(texts=len(jobs), tokens=sum(job.tokens for job in jobs))
        if call.key in self._calls:
            # Cancelling by key would cancel the texts of both.
            raise DuplicateCallError(
                "another call in progress has the same key; keys must be random"
            )
        self.submit(jobs)
        self._calls[call.key] = progress
        self._open_calls += 1
        gone = asyncio.ensure_future(request.gone())
        gone.add_done_callback(lambda _: progress.forget(self.batcher.cancel(jobs)))
        try:
            await self._send_frames(request, progress)
        finally:
            gone.cancel()
            self._open_calls -= 1
            self._calls.pop(call.key, None)
            progress.jobs.clear()  # breaks the reference cycle between jobs and call

    async def _send_frames(self, request: Request, progress: CallInProgress) -> None:
        headers = [(b"content-type", frames.FRAMES_TYPE.encode())]
        await request.send({"type": "http.response.start", "status": 200, "headers": headers})
        while not progress.finished:
            part = await progress.next_part()
            if part is not None:
                _tell(part)
                body = frames.encode_frame(self._frame(part))
                await request.send({"type": "http.response.body", "body": body, "more_body": True})
        await request.send({"type": "http.response.body", "body": b""})

    def _frame(self, part: BatchResult) -> frames.Frame:
        return frames.Frame(
            ids=[job.id for job in part.jobs],
            vectors=frames.vector_bytes(part.vectors),
            failures=[
                frames.Failure(
                    job.id, error.code or "replica_failed", error.message[: frames.MOST_MESSAGE]
                )
                for job, error in part.failures
            ],
            queue_us=round(part.queue_s * 1e6),
            compute_us=round(part.compute_s * 1e6),
            window=self.window,
            echoes=[frames.echo(job.encoding) for job in part.jobs],
        )

    async def cancel(self, request: Request) -> Response:
        """Cancel texts of a call that are still queued."""
        cancel = frames.decode_cancel(await request.body(self._max_body_bytes))
        progress = self._calls.get(cancel.key)
        if progress is not None:
            jobs = [progress.jobs[text] for text in cancel.ids if text in progress.jobs]
            progress.forget(self.batcher.cancel(jobs))
        return Response(b"{}")

    async def describe(self, _request: Request) -> Response:
        identity, info, ages = self.identity, self._engine.info, self.batcher.ages
        return Response(
            encode_description(
                ReplicaDescription(
                    name=identity.name,
                    served_names=list(self._served_names),
                    revision=identity.revision,
                    tokenizer=identity.tokenizer,
                    width=identity.width,
                    max_tokens=identity.max_tokens,
                    vocabulary=identity.vocabulary,
                    prompts=identity.prompts,
                    task=identity.task,
                    precision=info.precision,
                    device=info.device,
                    batch_tokens=self.batcher.budget_tokens,
                    window=self.window,
                    cost=dataclasses.astuple(self.batcher.cost.usual),
                    draining=self.draining,
                    batches=self.batcher.cost.batches,
                    busy_s=self._busy_s,
                    oldest_batch_s=_seconds(ages.oldest_s),
                    oldest_batch_predicted_s=_seconds(ages.oldest_predicted_s),
                )
            )
        )

    async def file(self, request: Request) -> Response:
        """One of the model's small files, for a gateway that does not have them."""
        name = request.path.removeprefix(FILES_PATH)
        path = self._files.directory / name
        if name not in SHARED_FILES or not path.is_file():
            raise UnknownRouteError(f"this model has no file {name}", code="unknown_file")
        body = await asyncio.to_thread(path.read_bytes)
        if self._files.changed(name):
            raise ChangedFileError(
                f"{name} has changed since this replica loaded it: restart the replica"
            )
        return Response(body, content_type=b"application/octet-stream")

    async def live(self, _request: Request) -> Response:
        return Response(b'{"status":"live"}')

    async def ready(self, _request: Request) -> Response:
        if self.draining:
            raise DrainingError("draining")
        return Response(b'{"status":"ready"}')

    async def expose(self, _request: Request) -> Response:
        metrics = self.metrics
        metrics.waiting_texts.set(self.batcher.waiting_texts)
        metrics.waiting_tokens.set(self.batcher.waiting_tokens)
        if self._gpu is not None:
            state = await asyncio.to_thread(self._gpu.read)
            metrics.gpu_busy.set(state.busy)
            metrics.gpu_memory.set(state.memory_used_bytes)
            metrics.gpu_memory_total.set(state.memory_total_bytes)
            metrics.gpu_power.set(state.power_w)
        return Response(metrics.exposition(), content_type=CONTENT_TYPE)

    def _check(self, jobs: Sequence[Job]) -> None:
        """Validate all texts of a call together, since NumPy's overhead per call dominates."""
        longest, vocabulary = self.identity.max_tokens, self.identity.vocabulary
        for job in jobs:
            if not 0 < job.tokens <= longest:
                raise CallerError(
                    f"text {job.id} has {job.tokens} tokens; this model takes 1 to {longest}",
                    code="context_length_exceeded",
                )
        ids = jobs[0].encoding if len(jobs) == 1 else np.concatenate([job.encoding for job in jobs])
        # As an unsigned number a negative id exceeds every vocabulary.
        if int(ids.view(np.uint32).max()) < vocabulary:
            return
        for job in jobs:
            for number in (int(job.encoding.min()), int(job.encoding.max())):
                if not 0 <= number < vocabulary:
                    raise CallerError(
                        f"text {job.id} has a token id of {number}; ids of this model are 0 to "
                        f"{vocabulary - 1}",
                        code="invalid_token_id",
                    )

    def _measure(self, report: BatchReport) -> None:
        metrics = self.metrics
        self._succeeded.inc(report.texts - report.failed_texts)
        self._failed.inc(report.failed_texts)
        metrics.tokens.labels().inc(report.tokens)
        metrics.padding.labels().inc(report.padding_tokens)
        metrics.batch_texts.labels().observe(report.texts)
        metrics.batch_tokens.labels().observe(report.tokens)
        metrics.batch_fill.labels().observe(report.tokens / self.batcher.budget_tokens)
        metrics.prepare.labels().observe(report.prepare_s)
        metrics.compute.labels().observe(report.compute_s)
        self._busy_s += report.compute_s
        queue = metrics.queue.labels()
        for seconds in report.queue_s:
            queue.observe(seconds)


def _seconds(value: float | None) -> float | None:
    """Seconds as sent: bounded, and without insignificant digits."""
    return None if value is None else round(min(value, MOST_SECONDS), 3)


def _tell(part: BatchResult) -> None:
    """Add an event to the call's trace, if any: a batch with some of its texts has finished."""
    if (span := current_span()) is not None:
        texts, failed = len(part.jobs), len(part.failures)
        span.happened(
            "batch finished",
            texts=texts,
            failed=failed,
            queue_s=part.queue_s,
            compute_s=part.compute_s,
        )


class BatcherBackend:
    """The backend of the replica's own OpenAI endpoint: submits to the batcher directly."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._jobs: dict[Text, Job] = {}

    def admit(self, texts: int, tokens: int, caller: Caller) -> None:
        """Texts are checked when they are submitted."""

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        """Submit to the batcher; raises what `Replica.submit` does."""

        def deliver(part: BatchResult) -> None:
            for job, vector in zip(part.jobs, part.vectors, strict=True):
                self._jobs.pop(texts[job.id], None)
                texts[job.id].answer(vector.copy(), part.queue_s, part.compute_s, "")
            for job, error in part.failures:
                self._jobs.pop(texts[job.id], None)
                texts[job.id].fail(error)

        now = time.monotonic()
        jobs = [
            Job(number, text.encoding, caller.lane, caller.deadline, now, deliver)
            for number, text in enumerate(texts)
        ]
        self._replica.submit(jobs)
        self._jobs.update(zip(texts, jobs, strict=True))

    def join(self, text: Text, caller: Caller) -> bool:  # noqa: ARG002
        """Texts are not shared, since there is no cache."""
        return False

    def shortage(self) -> str:
        """A replica that can't compute is not ready, and says so elsewhere."""
        return ""

    def withdraw(self, texts: Sequence[Text]) -> None:
        jobs = [self._jobs.pop(text) for text in texts if text in self._jobs]
        self._replica.batcher.cancel(jobs)
