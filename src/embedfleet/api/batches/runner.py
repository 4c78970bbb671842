"""Runs batches: sends their lines through the ordinary routes and writes the results.

Results are stored in parts of a few dozen lines or a second's worth. After a stop or a crash the
runner reads which lines are done and sends only the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from random import Random
from typing import TypeAlias

from msgspec.structs import replace

from embedfleet.api.batches import documents
from embedfleet.api.batches.documents import Batch, Line, LineFault, State, Status
from embedfleet.api.batches.store import OUTPUTS, BatchStore, output_id
from embedfleet.runtime.background import BoundedTasks, cancelled
from embedfleet.runtime.text_files import reason
from embedfleet.transport.asgi import Response, error_response
from embedfleet.vocabulary import EmbedfleetError

log = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[str, bytes, str], Awaitable[Response]]
"""Has a body answered for the owner of this id; gives the answer of request `name`."""

POLL_EVERY_S = 2.0
PAUSE_S = 2.0
"""After a failure of the store."""
PART_LINES = 64
PART_BYTES = 16 << 20
"""Answers that wait to be kept are no more, beside those of the requests that are under way."""
PART_S = 1.0
AT_ONCE = 4
"""Batches that run concurrently, so that a large one does not block the others."""

TRIED_AGAIN = frozenset({429, 503, 504})
"""Statuses of a service that has no room now."""

TRIED_A_FEW_TIMES = frozenset({500, 502})
MOST_TRIES = 3
LONGEST_PAUSE_S = 30.0
REMOVE_EVERY_S = 3600.0


class InputDeletedError(Exception):
    """The input of a batch was deleted before all of its lines were answered."""


class TakenOverError(Exception):
    """Another gateway has resumed, and perhaps ended, a batch that is in progress here."""


class Runner:
    """Runs batches, oldest first."""

    def __init__(
        self,
        batch_store: BatchStore,
        asks: Mapping[str, Ask],
        *,
        concurrent: int,
        most_requests: int,
        rng: Random | None = None,
        store_failed: Callable[[], None] = lambda: None,
    ) -> None:
        """`asks` are the endpoints that batches may be for; `store_failed` is called whenever the
        store could not be read or written.
        """
        self.store_failed = store_failed
        self._batch_store = batch_store
        self._place = batch_store.store.address
        self._asks = asks
        self._room = asyncio.Semaphore(concurrent)
        self._most_requests = most_requests
        self._rng = rng or Random()
        self._woken = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._paused: dict[str, float] = {}
        """Until when batches are left alone that could not go on, so that others can."""

    def wake(self) -> None:
        """There is a new batch, or one is to be cancelled."""
        self._woken.set()

    async def run(self) -> None:
        """Run waiting batches until cancelled."""
        remove_at = 0.0
        try:
            while True:
                self._woken.clear()
                waiting: list[Batch] = []
                try:
                    waiting = await asyncio.to_thread(self._batch_store.waiting)
                    if time.monotonic() >= remove_at:
                        await asyncio.to_thread(self._batch_store.remove_expired)
                        remove_at = time.monotonic() + REMOVE_EVERY_S
                except OSError as error:
                    self.store_failed()
                    log.warning("batches in %s can't be read: %s", self._place, reason(error))
                self._begin(waiting)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_EVERY_S):
                        await self._woken.wait()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _begin(self, waiting: list[Batch]) -> None:
        now = time.monotonic()
        self._paused = {name: until for name, until in self._paused.items() if until > now}
        for batch in waiting:
            if len(self._running) >= AT_ONCE:
                return
            if batch.endpoint not in self._asks:
                log.warning(
                    "batch %s is for %s, which this version does not answer; a gateway that "
                    "does will resume it",
                    *(batch.id, batch.endpoint),
                )
            elif batch.id not in self._running and batch.id not in self._paused:
                task = asyncio.create_task(self._one(batch), name=f"the batch {batch.id}")
                self._running[batch.id] = task

    async def _one(self, batch: Batch) -> None:
        try:
            await self._all_of(batch)
        except OSError as error:
            self.store_failed()
            told = (batch.id, self._place, reason(error))
            log.warning("batch %s is waiting for %s: %s", *told)
            self._paused[batch.id] = time.monotonic() + PAUSE_S
        except TakenOverError:
            log.warning("another gateway has resumed batch %s", batch.id)
            self._paused[batch.id] = time.monotonic() + PAUSE_S
        except Exception:
            log.exception("batch %s failed; retrying", batch.id)
            self._paused[batch.id] = time.monotonic() + LONGEST_PAUSE_S
        finally:
            del self._running[batch.id]
            self._woken.set()

    async def _all_of(self, batch: Batch) -> None:
        state = await asyncio.to_thread(self._batch_store.state, batch.id)
        if state.status == "validating":
            state = await asyncio.to_thread(self._validated, batch, state)
        elif state.status == "in_progress":  # nothing is asked that could not be kept
            await asyncio.to_thread(self._batch_store.set_state, batch.id, state)
        if state.status == "in_progress":
            work = _Work(self, self._batch_store, batch, state)
            state = await work.run()
        if state.status == "finalizing":
            await asyncio.to_thread(self._finished, batch, state)

    def _validated(self, batch: Batch, state: State) -> State:
        """Every line is looked at before one is answered. Where there are answers already, as of a
        batch whose state was lost, they are kept even if the input is no more.
        """
        self._batch_store.restore(batch.id)
        faults: list[LineFault] = []
        total, seen = 0, set()
        try:
            for line in self._lines(batch):
                total += 1
                if total > self._most_requests:
                    faults = [documents.too_many(self._most_requests)]
                    break
                if isinstance(line, LineFault):
                    faults.append(line)
                elif (key := blake2b(line.custom_id.encode(), digest_size=16).digest()) in seen:
                    told = f"`custom_id` {line.custom_id[:64]} is used twice"
                    faults.append(LineFault("duplicate_custom_id", line.number, told, "custom_id"))
                else:
                    seen.add(key)
                if len(faults) == documents.MOST_FAULTS:
                    break
        except InputDeletedError:
            total = sum(1 for _ in self._batch_store.answers(batch.id))
            if not total:
                faults.append(documents.INPUT_DELETED)
        if not total and not faults:
            faults = [LineFault("empty_file", 0, "the file holds no requests")]
        status: Status = "failed" if faults else "in_progress"
        return self._moved(batch, replace(state, faults=faults, total=total), status)

    def _finished(self, batch: Batch, state: State) -> None:
        """Put the answers into files. Done again, it makes the same ones."""
        kept: dict[str, str | None] = dict.fromkeys(OUTPUTS)
        answers = partial(self._batch_store.answers, batch.id)
        counts = Counter(kind for kind, _, _ in answers())
        if counts.total() < state.completed + state.failed:
            self._moved(batch, state, "in_progress")  # what is missing is asked for again
            raise OSError(errno.EIO, "stored answers are missing")
        state = replace(state, completed=counts["o"], failed=counts["e"])
        written = self._batch_store.outputs(batch.id)  # as by a runner that was killed meanwhile
        finished_at = state.at.get("finalizing", self._batch_store.now)
        for kind in kept:
            if counts[kind]:
                file = self._batch_store.add_file(
                    batch.owner,
                    f"{batch.id}_{OUTPUTS[kind]}.jsonl",
                    "batch_output",
                    (line for what, _, line in answers() if what == kind),
                    written.get(kind) or output_id(batch.id, kind, finished_at),
                    life_s=batch.output_life_s,
                )
                kept[kind] = file.id
        state = replace(state, output_file_id=kept["o"], error_file_id=kept["e"])
        self._moved(batch, state, _ended_as(state))
        for name in self._batch_store.parts(batch.id):
            self._batch_store.store.remove(name)

    def _lines(self, batch: Batch) -> Iterator[Line | LineFault]:
        """The lines of the input. Raises InputDeletedError."""
        name = f"files/{batch.input_file_id}.data"
        texts = self._batch_store.lines(name, documents.LONGEST_LINE)
        try:
            yield from documents.lines_of(texts, batch.endpoint)
        except FileNotFoundError as error:
            raise InputDeletedError(name) from error

    def _moved(self, batch: Batch, state: State, status: Status) -> State:
        """Write that a batch is in another status now. Raises TakenOverError where it has ended."""
        if self._batch_store.state(batch.id).status in documents.ENDED:
            raise TakenOverError(batch.id)
        # Never earlier than the steps before, even if the clock was set back.
        now = max(self._batch_store.now, batch.created_at, *state.at.values())
        at = {**state.at, status: now}
        state = replace(state, status=status, at=at)
        self._batch_store.set_state(batch.id, state)
        return state

    async def answer(
        self, batch: Batch, line: Line, name: str, ready: Callable[[], Awaitable[None]]
    ) -> tuple[bytes, bool]:
        """The line of the output, and whether it is one of an answer that succeeded. It is asked
        for when `ready` has returned.
        """
        tries = 0
        while True:
            async with self._room:
                await ready()
                response = await self._ask(batch, line, name)
                if response.taken is not None:
                    response.taken()
            tries += 1
            again = response.status in TRIED_AGAIN and not _is_hopeless(response)
            if not again and not (response.status in TRIED_A_FEW_TIMES and tries < MOST_TRIES):
                break
            pause_s = min(LONGEST_PAUSE_S, 0.25 * 2.0 ** min(tries, 10))
            await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))
        body = bytes(response.body)
        return documents.answered(name, line, response.status, name, body), response.status == 200

    async def _ask(self, batch: Batch, line: Line, name: str) -> Response:
        try:
            return await self._asks[batch.endpoint](name, line.body, batch.owner)
        except Exception:  # one line must not keep the others of its batch from their answers
            log.exception("request %s failed. This is a bug.", name)
            told = f"internal error; the log has the details of request {name}"
            return error_response(EmbedfleetError(told))


class _Work:
    """One batch that is in progress."""

    def __init__(self, runner: Runner, batch_store: BatchStore, batch: Batch, state: State) -> None:
        self._runner = runner
        self._batch_store = batch_store
        self._batch = batch
        self._state = state
        self._part: list[bytes] = []
        self._part_bytes = 0
        self._parts = 0
        self._writing = asyncio.Lock()
        self._done: set[int] = set()

    async def run(self) -> State:
        """Answer what is not answered; gives the state, which is `finalizing`."""
        await asyncio.to_thread(self._recall)
        ended = await asyncio.to_thread(self._asked_to_end)
        if ended is None:
            answering = asyncio.create_task(self._answer_all())
            try:
                ended = await self._watch(answering)
            except InputDeletedError:
                ended = "failed"
                self._state = replace(self._state, faults=[documents.INPUT_DELETED])
            except BaseException:
                await cancelled(answering)
                await self._keep(again=False)
                raise
            await cancelled(answering)
            await self._keep()
        if ended == "expired":
            with contextlib.suppress(InputDeletedError):
                await asyncio.to_thread(self._expire)
            await self._keep()
        at = {**self._state.at, "ending_as_" + ended: self._batch_store.now}
        moved = replace(self._state, at=at)
        return await asyncio.to_thread(self._runner._moved, self._batch, moved, "finalizing")  # noqa: SLF001

    def _recall(self) -> None:
        """Learn which lines were answered before."""
        counts: Counter[str] = Counter()
        for kind, number, _ in self._batch_store.answers(self._batch.id):
            self._done.add(number)
            counts[kind] += 1
        names = self._batch_store.parts(self._batch.id)
        self._parts = int(names[-1].rpartition("/")[2].partition("-")[0]) + 1 if names else 0
        self._state = replace(self._state, completed=counts["o"], failed=counts["e"])

    async def _answer_all(self) -> None:
        lines = self._runner._lines(self._batch)  # noqa: SLF001
        async with BoundedTasks(lambda: PART_LINES) as tasks:
            while (line := await asyncio.to_thread(self._next, lines)) is not None:
                await tasks.start(self._answer(line))

    def _next(self, lines: Iterator[Line | LineFault]) -> Line | None:
        for line in lines:
            if isinstance(line, Line) and line.number not in self._done:
                return line
        return None

    async def _answer(self, line: Line) -> None:
        name = f"batch_req_{self._batch.id.removeprefix('batch-')}_{line.number}"
        text, good = await self._runner.answer(self._batch, line, name, self._has_room)
        self._add(line, text, good=good)
        if len(self._part) >= PART_LINES:
            await self._keep()

    async def _has_room(self) -> None:
        if self._part_bytes >= PART_BYTES:
            await self._keep()

    def _add(self, line: Line, text: bytes, *, good: bool) -> None:
        self._part.append(b"%b %d %b" % (b"o" if good else b"e", line.number, text))
        self._part_bytes += len(text)
        self._done.add(line.number)
        state = self._state
        self._state = replace(
            state, completed=state.completed + good, failed=state.failed + (not good)
        )

    async def _watch(self, answering: asyncio.Task[None]) -> Status:
        """Keep what there is every second, until all is answered or it is to end before."""
        while True:
            done, _ = await asyncio.wait([answering], timeout=PART_S)
            if done:
                answering.result()
                return "completed"
            if not self._writing.locked():  # a store without room has it for long
                with contextlib.suppress(OSError):
                    await self._keep(again=False)
            ended = await asyncio.to_thread(self._asked_to_end)
            if ended is not None:
                return ended

    def _asked_to_end(self) -> Status | None:
        """How the batch is to end before all is answered, if it is."""
        if self._batch_store.cancelled_at(self._batch.id) is not None:
            return "cancelled"
        late = self._batch_store.now >= self._batch.expires_at
        return "expired" if late and len(self._done) < self._state.total else None

    async def _keep(self, *, again: bool = True) -> None:
        """Write the answers that came since the last part, and how many there are. While they can't
        be written they are kept here, and where they are to be tried `again`, no more are asked
        for: whoever waits for this asks for none. Raises OSError otherwise, and TakenOverError
        where nothing of it is this gateway's any more.
        """
        async with self._writing:
            while self._part:
                part, self._part, self._part_bytes = self._part, [], 0
                number, self._parts = self._parts, self._parts + 1
                write = asyncio.ensure_future(
                    asyncio.to_thread(self._write, number, part, self._state)
                )
                try:
                    # To its end, also where this is cancelled: these were answered.
                    await asyncio.shield(write)
                except OSError as error:
                    self._part = [*part, *self._part]
                    self._part_bytes = sum(map(len, self._part))
                    self._runner.store_failed()
                    if not again:
                        raise
                    told = (self._batch.id, self._batch_store.store.address, reason(error))
                    log.warning("batch %s is waiting to store responses in %s: %s", *told)
                    await asyncio.sleep(PAUSE_S)

    def _write(self, number: int, part: list[bytes], state: State) -> None:
        self._batch_store.add_part(self._batch.id, number, part)
        # None goes back to its validation: the state of one that is there was lost.
        if self._batch_store.state(self._batch.id).status not in {"in_progress", "validating"}:
            raise TakenOverError(self._batch.id)
        self._batch_store.set_state(self._batch.id, state)

    def _expire(self) -> None:
        """Say of the lines that are left that it is too late."""
        for line in self._runner._lines(self._batch):  # noqa: SLF001
            if isinstance(line, Line) and line.number not in self._done:
                name = f"batch_req_{self._batch.id.removeprefix('batch-')}_{line.number}"
                told = "This request could not be executed before the completion window expired."
                text = documents.unanswered(name, line, "batch_expired", told)
                self._add(line, text, good=False)


def _ended_as(state: State) -> Status:
    """What a batch is in the end, as was noted when its answers were all there."""
    ends: tuple[Status, ...] = ("expired", "cancelled", "failed")
    return next((each for each in ends if f"ending_as_{each}" in state.at), "completed")


def _is_hopeless(response: Response) -> bool:
    return (b"x-should-retry", b"false") in response.headers
