"""One pool at work: its queue, its fleet and the calls in flight.

A shell around `dispatch.py`: it turns requests into queued texts, assignments into calls, and what
comes back into vectors, failures and events of the fleet. Refuses to know HTTP, OpenAI and how
replicas are watched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial

from embedfleet.cache.single_flight import Arrived
from embedfleet.endpoint import Caller, Computed
from embedfleet.fleet.balancing import Balancer, Load
from embedfleet.fleet.fleet import Fleet, Member
from embedfleet.gateway.admission import admit
from embedfleet.gateway.budgets import HEDGE_SHARE, RETRY_SHARE, Budget
from embedfleet.gateway.counting import PoolCounter
from embedfleet.gateway.dispatch import Dispatcher, Ending
from embedfleet.gateway.endings import TEXT_ERRORS, ending_of
from embedfleet.gateway.engines.client import ReplicaClient
from embedfleet.gateway.flights import Flight, Flights
from embedfleet.gateway.gathering import Gathering
from embedfleet.gateway.hedging import late
from embedfleet.gateway.queue import QueuedText
from embedfleet.gateway.workload import Workload
from embedfleet.golden.vectors import all_of_unit_length, of_unit_length
from embedfleet.settings import FleetSettings, GatewaySettings
from embedfleet.telemetry.metrics import GatewayMetrics
from embedfleet.telemetry.tracing import current_span
from embedfleet.vocabulary import (
    DrainingError,
    EmbedfleetError,
    Encoding,
    Outcome,
    ReplicaError,
    ReplicaLostError,
    ReplicaState,
    VectorError,
    counted,
)
from embedfleet.wire import frames
from embedfleet.work import CostModel

log = logging.getLogger(__name__)

USABLE = {ReplicaState.READY, ReplicaState.SUSPECT}

TICK_S = 0.1
"""How often the pool looks for late calls, and tries again what waits for a warming replica."""


class Pool:
    """Vectors from the replicas that serve one model identically."""

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
    ) -> None:
        self.name = name
        self.fleet = fleet
        self.width = 0
        """Dimensions of a vector; known once the model is."""
        self._upstream = upstream
        self._most_tokens = gateway.max_queued_tokens
        self._dispatcher = Dispatcher(balancer, attempts=settings.attempts)
        self._counter = PoolCounter(name, metrics)
        self._flights = Flights()
        self.workload = Workload(self._dispatcher, self._flights)
        self._errands: set[asyncio.Task[None]] = set()
        self._retries, self._hedges = Budget(RETRY_SHARE), Budget(HEDGE_SHARE)
        self._dispatching = False
        fleet.listen(self._follow)

    def __repr__(self) -> str:
        return f"<Pool {self.name} {self.fleet!r} {self._dispatcher!r}>"

    async def compute(
        self, encodings: Sequence[Encoding], caller: Caller, arrived: Arrived | None = None
    ) -> Computed:
        """Vectors in order, [texts, width]; raises the error of the first text that has none.

        Cancelling takes the texts out of every queue that they still wait in.
        """
        now, tokens = time.monotonic(), sum(map(len, encodings))
        pressure = self.workload.pressure(caller.lane)
        admit(tokens, caller.lane, caller.deadline - now, pressure, self._most_tokens)
        gathering, trace = Gathering(len(encodings), self.width, arrived), current_span()
        shared = (caller.lane, caller.deadline, now, gathering)
        texts = [
            QueuedText(encoding, *shared, index, caller.address, trace=trace)
            for index, encoding in enumerate(encodings)
        ]
        for text in texts:
            self._dispatcher.queue.put(text)
        self._dispatch_soon()
        try:
            return await gathering.finished
        finally:
            if gathering.finished.cancelled() or gathering.finished.exception() is not None:
                self._abandon(texts)

    def observe(self) -> None:
        """Bring the gauges up to date, just before they are read."""
        self._counter.observe(self._dispatcher)

    async def close(self) -> None:
        """Break off what is in flight."""
        for errand in self._errands:
            errand.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
        await self._flights.cancel_all()

    # -- requests ----------------------------------------------------------------------

    def _abandon(self, texts: Sequence[QueuedText]) -> None:
        """Forget texts that nobody waits for, here and in replicas."""
        open_texts = [text for text in texts if not text.closed]
        for text in open_texts:
            text.closed = text.abandoned = True
            self._dispatcher.queue.discard(text)
        self._counter.ended(Outcome.IGNORED, len(open_texts))
        for flight, ids in self._flights.where(open_texts).items():
            self._start(self._cancel(flight, ids))

    async def _cancel(self, flight: Flight, ids: list[int]) -> None:
        try:
            await self._upstream.cancel(flight.member.url, flight.key, ids)
        except EmbedfleetError as error:
            log.debug("cancelling at %s: %s", flight.member.name, error)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    # -- the fleet ---------------------------------------------------------------------

    def _follow(self, member: Member, left: ReplicaState) -> None:
        """Keep loads in step with states; take back what an unusable replica holds."""
        if member.state in USABLE:
            load = self._dispatcher.load_of(member.name)
            if load is None and member.description is not None:
                told = member.description
                load = Load(member.name, told.window, told.batch_tokens, weight=member.weight)
                if any(self._dispatcher.loads):
                    load.joined = member.since  # others can carry the work while it warms up
                load.cost = CostModel(*told.cost)
                self._dispatcher.join(load)
            if load is not None:
                load.last_resort = member.state is ReplicaState.SUSPECT
                self._dispatcher.refresh()
            self._dispatch()
        elif left in USABLE:
            self._dispatcher.leave(member.name)
        if member.state in {ReplicaState.EJECTED, ReplicaState.GONE}:
            for call in self._flights.calls_of(member):
                call.cancel()

    async def run(self) -> None:
        """Now and then learn what replicas cost, hedge late calls, fill windows that grew."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for member in self.fleet:
                load = self._dispatcher.load_of(member.name)
                if load is not None and member.description is not None:
                    load.cost = CostModel(*member.description.cost)
            self._dispatcher.refresh()
            for flight in self._flights:
                self._hedge(flight, now)
            for call in self._flights.forsaken(now):
                call.cancel()
            self._dispatch()

    def _hedge(self, flight: Flight, now: float) -> None:
        """Give the texts of a late call to another replica as well, if the budget allows it."""
        assignment = flight.assignment
        texts = list(assignment.texts)
        if not texts or all(load is assignment.load for load in self._dispatcher.loads):
            return
        if not late(now - flight.progressed, assignment.load.outstanding_s):
            return
        if self._hedges.spend(len(texts)):
            log.info(
                "replica %s/%s is late with %s: another one computes them as well (hedge)",
                *(self.name, flight.member.name, counted(len(texts), "text")),
            )
            self._dispatcher.give_up(assignment, texts)
            self._counter.hedged(len(texts))
            self.fleet.failed(flight.member, now, "it is late with a call")

    # -- calls -------------------------------------------------------------------------

    def _dispatch_soon(self) -> None:
        """Start calls when all that arrived in this turn of the event loop is queued: texts that
        come together travel together, and a call costs what several texts cost.
        """
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start the calls that are possible now."""
        self._dispatching = False
        now = time.monotonic()
        for assignment in self._dispatcher.assign(now):
            flight = Flight(self.fleet[assignment.replica], assignment, now)
            call = asyncio.create_task(self._call(flight))
            self._flights.start(call, flight)
            # Not in a `finally` of the call: a task that is cancelled before it ran has none.
            call.add_done_callback(self._end)

    async def _call(self, flight: Flight) -> None:
        """Hand an assignment over and take its frames. Raises the ReplicaError that ended it."""
        now = time.monotonic()
        for text in flight.assignment.texts.values():
            self._counter.waited(text.lane, now - text.arrived)  # once it has left
        texts = flight.on_wire(now)
        take = partial(self._take, flight)
        with flight.traced():
            await self._upstream.work(flight.member.url, flight.key, texts, take)

    def _take(self, flight: Flight, frame: frames.Frame) -> None:
        """Give every text of a frame its vector or its error. Raises ReplicaError on nonsense."""
        assignment = flight.assignment
        assignment.load.window_tokens = max(1, frame.window)
        flight.progressed = time.monotonic()
        vectors = frame.matrix(self.width)
        if not all_of_unit_length(vectors):
            self._counter.refused(len(vectors) - int(of_unit_length(vectors).sum()))
            raise ReplicaError("a vector that is not finite or not of unit length")
        queue_s, compute_s = frame.queue_us / 1e6, frame.compute_us / 1e6
        answered = succeeded = dropped = tokens = 0
        for row, text_id in enumerate(frame.ids):
            text = self._dispatcher.settle(assignment, text_id)
            if text is not None:
                tokens += text.tokens
                answered += 1
                succeeded += not text.abandoned  # that was counted when it was abandoned
                waited_s = assignment.handed_s - text.arrived + queue_s
                text.claimant.succeeded(text.index, vectors[row], waited_s, compute_s)
        failures = [failure for failure in frame.failures if failure.code in TEXT_ERRORS]
        for failure in failures:
            text = self._dispatcher.settle(assignment, failure.id)
            if text is not None:
                dropped += not text.abandoned
                text.claimant.failed(text.index, TEXT_ERRORS[failure.code](failure.message))
        if frame.ids:
            self.fleet.succeeded(flight.member, flight.progressed)
        self._counter.computed(tokens)
        self._retries.earn(answered)
        self._hedges.earn(answered)
        self._counter.ended(Outcome.SUCCEEDED, succeeded)
        if failures:
            self._counter.ended(Outcome.DROPPED, dropped)
            self._counter.refused(sum(each.code == VectorError.code for each in failures))
        self._dispatch_soon()

    def _end(self, call: asyncio.Task[None]) -> None:
        """What a call left unanswered goes back to the queue, for another replica."""
        flight = self._flights.end(call)
        error = asyncio.CancelledError() if call.cancelled() else call.exception()
        left = sum(not text.closed for text in flight.assignment.texts.values())
        ending, trouble = self._judge(flight, error, left)
        affordable = ending is not Ending.FAILED or self._retries.spend(left)
        exhausted = self._dispatcher.end(flight.assignment, ending, retry=affordable)
        self._counter.requeued(left - len(exhausted))
        for text in exhausted:
            text.claimant.failed(
                text.index,
                ReplicaError(f"{text.attempts} replicas failed this text; last: {trouble}"),
            )
        self._counter.ended(Outcome.DROPPED, len(exhausted))
        self._dispatch_soon()

    def _judge(self, flight: Flight, error: BaseException | None, left: int) -> tuple[Ending, str]:
        """What the end of a call says of its replica; tell the fleet."""
        member = flight.member
        trouble = str(error or "") or f"it is {member.state}: {member.reason}"
        if not left:
            return Ending.FAILED, trouble  # nothing is missing: the end did no harm
        if isinstance(error, DrainingError):
            self.fleet.refused(member, time.monotonic(), "it refuses new work")
            return Ending.REFUSED, trouble
        expected = error is None or isinstance(error, ReplicaError | asyncio.CancelledError)
        log.warning(
            "replica %s/%s left %s unanswered (%s); another one gets them",
            *(self.name, member.name, counted(left, "text"), trouble),
            exc_info=None if expected else error,
        )
        lost = isinstance(error, ReplicaLostError)
        self.fleet.failed(member, time.monotonic(), trouble, lost=lost)
        return ending_of(error), trouble
