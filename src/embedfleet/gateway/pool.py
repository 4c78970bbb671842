"""One pool at work: its queue, its fleet and the calls in flight.

A shell around `dispatch.py`: it turns requests into queued texts, assignments into calls, and what
comes back into vectors, failures and events of the fleet. Refuses to know HTTP, OpenAI and how
replicas are watched.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence

from embedfleet.fleet.balancing import Load
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.states import Event
from embedfleet.gateway.dispatch import Assignment, Dispatcher
from embedfleet.gateway.gathering import Gathering
from embedfleet.gateway.queue import QueuedText
from embedfleet.gateway.throughput import Throughput
from embedfleet.gateway.upstream import Upstream
from embedfleet.golden.vectors import unit_rows
from embedfleet.settings import FleetSettings, GatewaySettings
from embedfleet.telemetry.metrics import GatewayMetrics
from embedfleet.vocabulary import (
    DeadlineError,
    DrainingError,
    EmbedfleetError,
    Encoding,
    Lane,
    Outcome,
    OverloadedError,
    ReplicaError,
    ReplicaState,
    VectorError,
    Vectors,
)
from embedfleet.wire import frames

log = logging.getLogger(__name__)

USABLE = {ReplicaState.READY, ReplicaState.SUSPECT}

_TEXT_ERRORS = {"invalid_vector": VectorError, "deadline_exceeded": DeadlineError}
"""Failures that are the text's own. Any other is the replica's: the text stays unanswered in its
call, and so goes to another replica when the call ends."""


class Pool:
    """Vectors from the replicas that serve one model identically."""

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        upstream: Upstream,
        *,
        gateway: GatewaySettings,
        settings: FleetSettings,
        metrics: GatewayMetrics,
    ) -> None:
        self.name = name
        self.fleet = fleet
        self.width = 0
        """Dimensions of a vector; known once the model is."""
        self._upstream = upstream
        self._max_queued_tokens = gateway.max_queued_tokens
        self._dispatcher = Dispatcher(attempts=settings.attempts)
        self._metrics = metrics
        self._calls: dict[asyncio.Task[None], _Flight] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._flights: dict[int, _Flight] = {}
        self._throughput = Throughput()
        self._waits = {lane: metrics.queue_wait.labels(name, lane.value) for lane in Lane}
        fleet.listen(self._follow)

    def __repr__(self) -> str:
        return f"<Pool {self.name} {self.fleet!r} {self._dispatcher!r}>"

    @property
    def queued_texts(self) -> int:
        return len(self._dispatcher.queue)

    async def compute(
        self, encodings: Sequence[Encoding], *, lane: Lane, deadline: float
    ) -> Vectors:
        """Vectors in order, [texts, width]; raises the error of the first text that has none.

        Cancelling takes the texts out of every queue that they still wait in.
        """
        self._admit(sum(map(len, encodings)))
        gathering = Gathering(len(encodings), self.width)
        now = time.monotonic()
        texts = [
            QueuedText(encoding, lane, deadline, now, gathering, index)
            for index, encoding in enumerate(encodings)
        ]
        for text in texts:
            self._dispatcher.queue.put(text)
        self._dispatch()
        try:
            return await gathering.finished
        finally:
            if gathering.finished.cancelled() or gathering.finished.exception() is not None:
                self._abandon(texts)

    def observe(self) -> None:
        """Bring the gauges up to date, just before they are read."""
        metrics, dispatcher = self._metrics, self._dispatcher
        metrics.queued_texts.labels(self.name).set(len(dispatcher.queue))
        metrics.queued_tokens.labels(self.name).set(dispatcher.queue.tokens)
        for load in dispatcher.loads:
            labels = (self.name, load.replica)
            metrics.outstanding_tokens.labels(*labels).set(load.outstanding_tokens)
            metrics.window_tokens.labels(*labels).set(load.window_tokens)

    async def close(self) -> None:
        """Break off what is in flight."""
        tasks = [*self._calls, *self._errands]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- requests ----------------------------------------------------------------------

    def _admit(self, tokens: int) -> None:
        dispatcher = self._dispatcher
        ahead = dispatcher.queue.tokens + dispatcher.outstanding_tokens
        if ahead and ahead + tokens > self._max_queued_tokens:
            raise OverloadedError(
                f"{ahead} tokens are being worked on and {tokens} more would pass the limit of "
                f"{self._max_queued_tokens} (gateway.max_queued_tokens); try again later",
                retry_after_s=self._throughput.seconds(tokens),
            )

    def _abandon(self, texts: Sequence[QueuedText]) -> None:
        """Forget texts that nobody waits for, here and in replicas."""
        flying: dict[_Flight, list[int]] = {}
        for text in texts:
            text.abandoned = True
            if self._dispatcher.queue.discard(text):
                continue
            flight = self._flights.get(id(text))
            if flight is not None:
                flying.setdefault(flight, []).append(flight.ids[id(text)])
        for flight, ids in flying.items():
            self._start(self._cancel(flight, ids))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _cancel(self, flight: _Flight, ids: list[int]) -> None:
        try:
            await self._upstream.cancel(flight.member.url, flight.key, ids)
        except EmbedfleetError as error:
            log.debug("cancelling at %s: %s", flight.member.name, error)

    # -- the fleet ---------------------------------------------------------------------

    def _follow(self, member: Member, left: ReplicaState) -> None:
        """Keep loads in step with states; take back what an unusable replica holds."""
        if member.state in USABLE:
            load = self._dispatcher.load_of(member.name)
            if load is None and member.description is not None:
                load = Load(member.name, member.description.window, member.description.batch_tokens)
                self._dispatcher.join(load)
            if load is not None:
                load.last_resort = member.state is ReplicaState.SUSPECT
            self._dispatch()
        elif left in USABLE:
            self._dispatcher.leave(member.name)
        if member.state in {ReplicaState.EJECTED, ReplicaState.GONE}:
            for call, flight in list(self._calls.items()):
                if flight.member is member:
                    call.cancel()

    # -- calls -------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Start the calls that are possible now."""
        for assignment in self._dispatcher.assign():
            flight = _Flight(self.fleet[assignment.replica], assignment)
            for text in assignment.texts.values():
                self._flights[id(text)] = flight
            call = asyncio.create_task(self._call(flight))
            self._calls[call] = flight
            # Not in a `finally` of the call: a task that is cancelled before it ran has none.
            call.add_done_callback(self._end)

    async def _call(self, flight: _Flight) -> None:
        """Hand an assignment over and take its frames. Raises the ReplicaError that ended it."""
        now = time.monotonic()
        texts = []
        for number, text in flight.assignment.texts.items():
            texts.append(_on_wire(number, text, now))
            self._waits[text.lane].observe(now - text.arrived)
        async for frame in self._upstream.work(flight.member.url, flight.key, texts):
            self._take(flight, frame)
            self._dispatch()

    def _take(self, flight: _Flight, frame: frames.Frame) -> None:
        """Give every text of a frame its vector or its error. Raises ReplicaError on nonsense."""
        assignment = flight.assignment
        assignment.load.window_tokens = max(1, frame.window)
        vectors = frame.matrix(self.width)
        right = unit_rows(vectors)
        tokens = 0
        for row, text_id in enumerate(frame.ids):
            if not right[row]:
                raise ReplicaError("a vector that is not finite or not of unit length")
            text = self._settle(flight, text_id)
            tokens += text.tokens
            text.claimant.succeeded(text.index, vectors[row])
        failures = [failure for failure in frame.failures if failure.code in _TEXT_ERRORS]
        for failure in failures:
            text = self._settle(flight, failure.id)
            text.claimant.failed(text.index, _TEXT_ERRORS[failure.code](failure.message))
        self._throughput.add(tokens, time.monotonic())
        self._metrics.tokens.labels(self.name).inc(tokens)
        self._count(Outcome.SUCCEEDED, len(frame.ids))
        self._count(Outcome.DROPPED, len(failures))

    def _settle(self, flight: _Flight, text_id: int) -> QueuedText:
        text = self._dispatcher.settle(flight.assignment, text_id)
        self._flights.pop(id(text), None)
        return text

    def _end(self, call: asyncio.Task[None]) -> None:
        """What a call left unanswered goes back to the queue, for another replica."""
        flight = self._calls.pop(call)
        for number, text in list(flight.assignment.texts.items()):
            if text.abandoned:
                self._settle(flight, number)
                self._count(Outcome.IGNORED, 1)
        if flight.assignment.texts:
            self._put_back(flight, None if call.cancelled() else call.exception())
        elif not call.cancelled():
            call.exception()  # nothing is missing: whatever was wrong at the end did no harm
        self._dispatch()

    def _put_back(self, flight: _Flight, error: BaseException | None) -> None:
        member, left = flight.member, list(flight.assignment.texts.values())
        trouble = str(error) if error else f"it is {member.state}: {member.reason}"
        draining = isinstance(error, DrainingError)
        if draining:
            self.fleet.apply(member, Event.DRAIN, time.monotonic(), "it refuses new work")
        else:
            bug = None if error is None or isinstance(error, ReplicaError) else error
            log.warning(
                "replica %s left %d texts unanswered (%s); they go to another",
                *(member.name, len(left), trouble),
                exc_info=bug,
            )
            self.fleet.apply(member, Event.FAILED, time.monotonic(), trouble)
        self._metrics.requeued_texts.labels(self.name).inc(len(left))
        for text in left:
            self._flights.pop(id(text), None)
        for text in self._dispatcher.put_back(flight.assignment, counted=not draining):
            text.claimant.failed(
                text.index,
                ReplicaError(f"{text.attempts} replicas failed this text; last: {trouble}"),
            )
            self._count(Outcome.DROPPED, 1)

    def _count(self, outcome: Outcome, texts: int) -> None:
        if texts:
            self._metrics.texts.labels(self.name, outcome.value).inc(texts)


class _Flight:
    """A call in flight."""

    def __init__(self, member: Member, assignment: Assignment) -> None:
        self.member = member
        self.assignment = assignment
        self.key = secrets.token_hex(8)
        self.ids = {id(text): number for number, text in assignment.texts.items()}


def _on_wire(number: int, text: QueuedText, now: float) -> frames.CallText:
    return frames.CallText(
        number,
        frames.encoding_bytes(text.encoding),
        bulk=text.lane is Lane.BULK,
        deadline_ms=max(1, round((text.deadline - now) * 1000)),
    )
