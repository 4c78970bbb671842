"""One pool at work: its queue, its fleet and its calls in flight.

A shell around `dispatch`: queues texts, makes the assigned calls, and turns their results into
vectors, errors and reports to the fleet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from embedfleet.fleet.balancing import Balancer, Load
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.fleet.health import SERVING
from embedfleet.fleet.replica_client import ReplicaClient
from embedfleet.models.golden.vectors import INVALID_VECTOR, all_of_unit_length, of_unit_length
from embedfleet.runtime.settings import FleetSettings, GatewaySettings
from embedfleet.runtime.telemetry.metrics import GatewayMetrics
from embedfleet.runtime.telemetry.tracing import current_span
from embedfleet.scheduling.delivery import decisions
from embedfleet.scheduling.delivery.admission import Pressure, admit
from embedfleet.scheduling.delivery.counting import PoolCounter
from embedfleet.scheduling.delivery.decisions import Event, Step, error_of, event_of, public_words
from embedfleet.scheduling.delivery.dispatch import Dispatcher
from embedfleet.scheduling.delivery.in_flight import InFlight
from embedfleet.scheduling.delivery.repeated_vectors import RepeatedVectors
from embedfleet.scheduling.texts import Caller, Lease, Text
from embedfleet.transport import frames
from embedfleet.transport.untrusted import shown
from embedfleet.vocabulary import (
    DrainingError,
    EmbedfleetError,
    Lane,
    NoReplicaError,
    Outcome,
    ReplicaError,
    ReplicaState,
    Vectors,
    counted,
)

log = logging.getLogger(__name__)

TICK_S = 0.1
"""How often the pool looks for late calls, and tries again what waits for a warming replica."""

TEXT_EVENTS = {
    "invalid_vector": Event.INVALID,
    "ids_not_text": Event.UNSENDABLE,
    "deadline_exceeded": Event.EXPIRED,
}
"""What a replica may say of a single text. Any other failure is the replica's own."""


class Observer(Protocol):
    """Watches the traffic of a pool."""

    def asked(self, tokens: int, texts: int, now: float) -> None:
        """Count requested work, also where it is refused."""
        ...

    def ended(self, seconds: float, now: float, texts: int, *, left: bool) -> None:
        """Interactive texts were answered or failed so long after they came, or, with `left`, were
        given up by their callers; those may be answered yet."""
        ...


class Elsewhere(Protocol):
    """What other processes of this gateway have given to replicas of the pool."""

    def outstanding(self, replica: str) -> int:
        """Tokens that a replica still has to answer them."""
        ...


class Pool:
    """Vectors from the replicas that serve one model identically: a backend of the endpoint."""

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        upstream: ReplicaClient,
        balancer: Balancer,
        *,
        gateway: GatewaySettings,
        settings: FleetSettings,
        metrics: GatewayMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.fleet = fleet
        self.width = 0
        """Dimensions of a vector; known once the model is."""
        self.observer: Observer | None = None
        self.elsewhere: Elsewhere | None = None
        self._upstream = upstream
        self._most_tokens = gateway.max_queued_tokens
        self._no_replica_s = settings.no_replica_timeout_s
        self._clock = clock
        self._dispatcher = Dispatcher(balancer, attempts=settings.attempts)
        self._counter = PoolCounter(name, metrics)
        self._repeated = RepeatedVectors()
        self._flights: dict[Lease, InFlight] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None
        self._dispatching = self._closed = False
        self._seen_ready = clock()
        """When a replica was ready last."""
        self._trouble = ""  # what was wrong with a replica last, in words that callers may see
        fleet.listen(self._follow)

    def __repr__(self) -> str:
        return f"<Pool {self.name} {self.fleet!r} {self._dispatcher!r}>"

    # -- what there is to do -----------------------------------------------------------

    @property
    def queued_texts(self) -> int:
        """Texts that wait for a replica."""
        return len(self._dispatcher.queue)

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue or with a replica."""
        return self._dispatcher.queue.tokens + self._dispatcher.outstanding_tokens

    @property
    def in_flight_tokens(self) -> int:
        """Tokens with a replica."""
        return self._dispatcher.outstanding_tokens

    def queued_tokens(self, lane: Lane) -> int:
        """Tokens that wait for a replica in this lane."""
        return self._dispatcher.queue.tokens_of(lane)

    def outstanding(self, replica: str) -> int:
        """Tokens that a replica still has to answer, also one that gets nothing new."""
        calls = [each.call for each in self._flights.values() if each.member.name == replica]
        here = sum(text.tokens for call in calls for text in call.texts.values())
        return here if self.elsewhere is None else here + self.elsewhere.outstanding(replica)

    def observe(self) -> None:
        """Bring the gauges up to date, just before they are read."""
        self._counter.observe(self._dispatcher)

    # -- requests ----------------------------------------------------------------------

    def admit(self, texts: int, tokens: int, caller: Caller) -> None:
        """Raises OverloadedError for too much work, NoReplicaError while all replicas are gone."""
        now, waiting = self._clock(), self.waiting_tokens
        if self.observer is not None:
            self.observer.asked(tokens, texts, now)
        if self._gone(now):
            raise self._no_replica()
        # An interactive text passes what waits in the bulk lane; a bulk text waits for all.
        lane = caller.lane if caller.lane is Lane.INTERACTIVE else None
        wait_s = self._dispatcher.drain_s(lane) if waiting else 0.0
        pressure = Pressure(waiting, 0.0 if wait_s == float("inf") else wait_s)
        admit(tokens, caller.lane, caller.deadline - now, pressure, self._most_tokens)

    def submit(self, texts: Sequence[Text], caller: Caller) -> None:
        """Queue texts that were admitted."""
        lane, deadline, address = caller.lane, caller.deadline, caller.address
        now, trace, put = self._clock(), current_span(), self._dispatcher.queue.put
        for text in texts:
            text.submitted(lane, deadline, now, address, trace)
            put(text)
        self._dispatch_soon()

    def join(self, text: Text, caller: Caller) -> bool:
        """Give a text the lane of the more urgent and the deadline of the more patient caller."""
        if text.lane is Lane.BULK and caller.lane is Lane.INTERACTIVE:
            if text.place is None:
                return False  # a replica has it behind its interactive texts
            self._dispatcher.queue.discard(text)
            text.lane = caller.lane
            self._dispatcher.queue.put(text)
            self._dispatch_soon()
        if caller.deadline > text.deadline:
            text.deadline = caller.deadline
            text.extended = bool(text.leases)
        return True

    def shortage(self) -> str:
        return decisions.shortage(self.fleet)

    def withdraw(self, texts: Sequence[Text]) -> None:
        """Cancel texts that are no longer awaited, here and in replicas."""
        texts = [text for text in texts if text.open]
        self._counter.ended(Outcome.IGNORED, self._dispatcher.withdraw(texts))
        self._cancel_unwanted()
        if self.observer is not None:
            now = self._clock()
            for each in texts:
                if each.lane is Lane.INTERACTIVE:
                    self.observer.ended(now - each.arrived, now, 1, left=True)

    def _tell(self, text: Text, error: EmbedfleetError) -> None:
        """A text has failed for good."""
        self._counter.ended(Outcome.DROPPED, 1)
        if self.observer is not None and text.lane is Lane.INTERACTIVE:
            now = self._clock()
            self.observer.ended(now - text.arrived, now, 1, left=False)
        text.fail(error)

    # -- the loop ----------------------------------------------------------------------

    async def run(self) -> None:
        """Now and then: learn what replicas cost, find late calls, fill windows that grew.

        Runs until it is cancelled; raises what should not have happened anywhere in the pool.
        """
        while True:
            await asyncio.sleep(TICK_S)
            if self._bug is not None:
                raise self._bug
            self._tick(self._clock())

    def _tick(self, now: float) -> None:
        for member in self.fleet:
            load = self._dispatcher.load_of(member.name)
            if load is not None:
                work = load.measured(now)
                if work is not None:
                    self.fleet.measure(member, work, now)
                load.cost = self.fleet.cost_of(member, now)
        self._dispatcher.refresh()
        late = {self._late(self._flights[call], now) for call in self._dispatcher.late(now)}
        for member in late:  # once, however many calls of it are late
            self.fleet.failed(member, now, "a call took longer than predicted")
        for call in self._dispatcher.abandoned(now):
            self._flights[call].recall(Event.EJECTED)
        if self._gone(now):
            self._give_up()
        self._dispatch()

    def _late(self, flight: InFlight, now: float) -> Member:
        """Hedge a call; it is a time-out of its replica, whether it can be hedged or not."""
        member, call = flight.member, flight.call
        hedged = self._dispatcher.hedge(call, now)
        self._counter.hedged(hedged)
        late = (f"{self.name}/{member.name}", counted(len(call.texts), "text"), hedged)
        log.info("replica %s is late with %s; %d hedged to another replica", *late)
        return member

    def _gone(self, now: float) -> bool:
        """Whether none was ready for longer than texts wait: a lone one that is gone is suspect."""
        if self._no_replica_s is None:
            return False
        if self.fleet.count(ReplicaState.READY):
            self._seen_ready = now
        return now - self._seen_ready >= self._no_replica_s

    def _give_up(self) -> None:
        """Tell every text, but for those that a draining replica is about to answer."""
        spared = {
            text
            for flight in self._flights.values()
            if flight.member.state is ReplicaState.DRAINING
            for text in flight.call.texts.values()
        }
        texts = [text for text in self._dispatcher if text.open and text not in spared]
        for text in texts:
            if self._dispatcher.withdraw([text]):
                self._tell(text, self._no_replica())
        self._cancel_unwanted()

    def _no_replica(self) -> NoReplicaError:
        known = next((member.trouble for member in self.fleet if member.trouble), self._trouble)
        return decisions.no_replica(self.name, known, self._no_replica_s or 0.0)

    async def close(self) -> None:
        """Break off what is in flight."""
        self._closed = True
        calls = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in (*calls, *self._errands):
            task.cancel()
        await asyncio.gather(*calls, *self._errands, return_exceptions=True)

    def _guarded(self, act: Callable[..., None], *args: object) -> None:
        """Do what the event loop called for; a bug in it ends `run`, and does not pass unseen."""
        try:
            act(*args)
        except Exception as error:  # noqa: BLE001  re-raised where the call is awaited
            self._bug = self._bug or error

    # -- the fleet ---------------------------------------------------------------------

    def _follow(self, member: Member, left: ReplicaState) -> None:
        """Keep loads in step with states; take back what an unusable replica holds."""
        if left is ReplicaState.READY:
            self._seen_ready = self._clock()
        self._trouble = decisions.trouble_of(member) or self._trouble
        self._dispatcher.members = frozenset(each.name for each in self.fleet)
        self._repeated.keep(self._dispatcher.members)
        if member.state in SERVING:
            self._use(member)
        elif left in SERVING:
            self._dispatcher.leave(member.name)
        if member.state in {ReplicaState.EJECTED, ReplicaState.GONE}:
            why = Event.EJECTED
            if member.state is ReplicaState.GONE:
                why = Event.REFUSED if member.leaving else Event.LOST
            for flight in list(self._flights.values()):
                if flight.member is member:
                    flight.recall(why)

    def _use(self, member: Member) -> None:
        load, info = self._dispatcher.load_of(member.name), member.description
        if load is None and info is not None:
            load = Load(member.name, info.window, info.batch_tokens, weight=member.weight)
            load.cores = decisions.cores_of(member.url, info.device)
            if any(self._dispatcher.loads):
                load.joined = member.since  # others can carry the work while it warms up
            load.cost = self.fleet.cost_of(member, self._clock())
            self._dispatcher.join(load)
        if load is not None:
            load.last_resort = member.state is ReplicaState.SUSPECT
            self._dispatcher.refresh()
        self._dispatch_soon()

    # -- calls -------------------------------------------------------------------------

    def _dispatch_soon(self) -> None:
        """Dispatch at the end of this turn of the event loop: texts queued in it share calls."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._guarded, self._dispatch)

    def _dispatch(self) -> None:
        """Start the calls that are possible now."""
        self._dispatching = False
        if self._closed:
            return
        for call in self._dispatcher.assign(self._clock()):
            flight = InFlight(self.fleet[call.replica], call)
            flight.task = asyncio.create_task(self._call(flight))
            self._flights[call] = flight
            # Not in a `finally` of the call: a task that is cancelled before it ran has none.
            flight.task.add_done_callback(partial(self._guarded, self._end, flight))

    async def _call(self, flight: InFlight) -> None:
        """Hand texts over and take the frames. Raises the ReplicaError that ended it."""
        now, member = self._clock(), flight.member
        self._counter.left(flight.call.texts.values(), now)
        texts = flight.on_wire(now)
        with flight.traced():
            await self._upstream.work(member.url, flight.key, texts, partial(self._take, flight))

    def _take(self, flight: InFlight, frame: frames.Frame) -> None:
        """Give every text of a frame its vector or its error. Raises ReplicaError on nonsense."""
        call, member, now = flight.call, flight.member, self._clock()
        call.load.window_tokens = max(1, frame.window)
        vectors = frame.matrix(self.width)
        right = None if all_of_unit_length(vectors) else of_unit_length(vectors)
        asked = [call.texts.get(text_id) for text_id in frame.ids]
        self._repeated.refuse(call.load, asked, vectors, now, unproven=bool(member.failing_checks))
        leased = len(call.texts)
        rows = range(len(frame.ids)) if right is None else np.flatnonzero(right).tolist()
        answered: list[Text] = []
        try:
            answered += self._answer(flight, frame, vectors, rows)
            for row in () if right is None else np.flatnonzero(~right).tolist():
                self._fail(flight, frame.ids[row], Event.INVALID, INVALID_VECTOR, now)
            broken = [self._take_failure(flight, failure, now) for failure in frame.failures]
        finally:
            if len(call.texts) < leased:
                call.progressed_s = call.load.progressed_s = now
            self._count(call.load, answered, now)
        if right is not None:
            raise ReplicaError(INVALID_VECTOR)
        if any(broken):
            self.fleet.failed(member, now, next(filter(None, broken)))
        elif answered:
            self.fleet.succeeded(member, now)
        self._cancel_unwanted()
        self._dispatch_soon()

    def _answer(
        self, flight: InFlight, frame: frames.Frame, vectors: Vectors, rows: Sequence[int]
    ) -> list[Text]:
        """Give texts their vectors, these rows of a frame; returns those that had none before."""
        call = flight.call
        queue_s, compute_s = frame.queue_us / 1e6, frame.compute_us / 1e6
        source = f"{self.name}/{flight.member.name}"
        answered: list[Text] = []
        texts = self._dispatcher.settle_all(call, [frame.ids[row] for row in rows])
        for row, text in zip(rows, texts, strict=True):
            if text is None:  # answered before
                continue
            answered.append(text)
            if text.invalid:
                self._blame(text)
            text.answer(vectors[row], call.handed_s - text.arrived + queue_s, compute_s, source)
        return answered

    def _take_failure(self, flight: InFlight, failure: frames.Failure, now: float) -> str:
        """What the replica says of itself by it: nothing if it is the text's own failure."""
        words = shown(failure.message)
        event = TEXT_EVENTS.get(failure.code, Event.FAILED)
        self._fail(flight, failure.id, event, words, now)
        return words or "it failed a text" if event is Event.FAILED else ""

    def _fail(self, flight: InFlight, text_id: int, event: Event, words: str, now: float) -> None:
        """A text of a call has no vector there."""
        self._counter.refused(event is Event.INVALID)
        if text_id not in flight.call.texts:
            self._dispatcher.settle(flight.call, text_id)  # raises if it was never sent
            return
        text, step = self._dispatcher.fail(flight.call, text_id, event, now)
        self._follow_steps([(text, step)], event, words, now)

    def _follow_steps(
        self, steps: Sequence[tuple[Text, Step]], event: Event, words: str, now: float
    ) -> None:
        """Tell those who wait for texts that failed for good."""
        failed = [text for text, step in steps if step is Step.FAIL]
        self._counter.requeued(sum(step in {Step.REQUEUE, Step.ISOLATE} for _, step in steps))
        for text in failed:
            self._tell(text, error_of(text, event, words, now))

    def _blame(self, text: Text) -> None:
        """Another replica had a vector for the text: those that said it has none were wrong."""
        for member in self.fleet:
            if member.name in text.invalid:
                reason = "it gave no vector for a text that another replica computed"
                self.fleet.failed(member, self._clock(), reason)

    def _count(self, load: Load, answered: Sequence[Text], now: float) -> None:
        """A frame of a replica has answered texts."""
        succeeded = tokens = squares = 0
        waited: dict[float, int] = {}
        for text in answered:
            tokens += text.tokens
            squares += text.tokens * text.tokens
            succeeded += not text.withdrawn  # that was counted then
            if text.lane is Lane.INTERACTIVE:
                waited[text.arrived] = waited.get(text.arrived, 0) + 1
        load.answered(tokens, squares)
        self._counter.computed(tokens)
        self._counter.ended(Outcome.SUCCEEDED, succeeded)
        self._dispatcher.retries.earn(len(answered))
        self._dispatcher.hedges.earn(len(answered))
        if self.observer is not None:
            for arrived, texts in waited.items():
                self.observer.ended(now - arrived, now, texts, left=False)

    def _end(self, flight: InFlight, task: asyncio.Task[None]) -> None:
        """What a call left unanswered goes back to the queue, for another replica."""
        call, member, now = flight.call, flight.member, self._clock()
        del self._flights[call]
        flight.task = None
        error = None if task.cancelled() else task.exception()
        left = sum(text.open for text in call.texts.values())
        if task.cancelled():
            event = flight.recalled or Event.REFUSED
            words = f"it is {member.state}: {member.reason}"
        else:
            event = event_of(error)
            why = str(error or "") or "its answer ended before all texts were answered"
            words = shown(why.replace(member.url, member.name))
        steps = self._dispatcher.end(call, event, now)
        if left:
            expected = error is None or isinstance(error, ReplicaError | DrainingError)
            log.warning(
                "replica %s did not answer %s (%s); requeued",
                f"{self.name}/{member.name}",
                counted(left, "text"),
                words,
                exc_info=None if expected else error,
            )
        if isinstance(error, DrainingError):
            self.fleet.refused(member, now, words, wait_s=error.retry_after_s or 0.0)
        elif error is not None or (left and not task.cancelled()):
            lost = event in {Event.LOST, Event.UNREACHED}
            self.fleet.failed(member, now, words, lost=lost)
        elif call.outrun:
            self.fleet.failed(member, now, "another replica answered a hedged text first")
        self._follow_steps(steps, event, public_words(error, words), now)
        self._dispatch_soon()

    def _cancel_unwanted(self) -> None:
        """Tell replicas of texts that need not be computed there any more."""
        for call, ids in self._dispatcher.unwanted().items():
            task = asyncio.create_task(self._cancel(self._flights[call], ids))
            self._errands.add(task)
            task.add_done_callback(self._errands.discard)

    async def _cancel(self, flight: InFlight, ids: list[int]) -> None:
        try:
            await self._upstream.cancel(flight.member.url, flight.key, ids)
        except EmbedfleetError as error:
            log.debug("cancelling texts at %s failed: %s", flight.member.name, error)
