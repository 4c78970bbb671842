"""openai-python creates, follows, cancels and reads batches; what a stop leaves is done later."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfleet.api.batches import documents
from embedfleet.api.batches.documents import LineFault, State
from embedfleet.api.batches.routes import BatchRoutes
from embedfleet.api.batches.runner import PART_BYTES, Runner
from embedfleet.api.batches.store import BatchStore, Quota
from embedfleet.runtime.folders import LocalStore, Parts, Store, Written, store_at
from embedfleet.transport.access import KeyRing, OpenAccess
from embedfleet.transport.access.records import plain
from embedfleet.transport.asgi import Response, Router
from embedfleet.transport.serving import Listener, bind, serving
from embedfleet.vocabulary import CallerError

ENDPOINT: Final = "/v1/embeddings"
ROOM: Final = Quota(files=1000, bytes=1 << 22, batches=1000)
ONE, TWO = "the-first-key-of-these-tests", "the-second-key-of-these-tests"


def lines(*texts: str, **fields: Any) -> bytes:
    """The input of a batch."""
    requests = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": ENDPOINT,
            "body": {"model": "m", "input": text},
            **fields,
        }
        for number, text in enumerate(texts)
    ]
    return b"".join(orjson.dumps(each) + b"\n" for each in requests)


async def until(reached: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 90
    while not reached():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class Answering:
    """Answers requests of batches, and counts them."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.owners: set[str] = set()
        self.answer: Callable[[str], Response] = self.good
        self.hold = asyncio.Event()
        self.hold.set()
        self.answered = 0

    @staticmethod
    def good(text: str) -> Response:
        return Response(orjson.dumps({"data": [{"embedding": [len(text)]}]}))

    def until(self, answered: int) -> Callable[[str], Response]:
        """Good answers; the next ones are held once so many are out."""

        def answer(text: str) -> Response:
            if self.answered == answered:
                self.hold.clear()
            return self.good(text)

        return answer

    async def __call__(self, name: str, body: bytes, owner: str) -> Response:
        text = orjson.loads(body)["input"]
        self.owners.add(owner)
        await self.hold.wait()
        self.asked[text] += 1
        self.answered += 1
        return self.answer(text)


class Running:
    """The Batch API at an address."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        answering: Answering,
        store: BatchStore,
        routes: BatchRoutes,
        wake: Callable[[], None],
        failures: Counter[str],
    ) -> None:
        self.routes = routes
        self.failures = failures
        """Of the store, as they were counted."""
        self.client = client
        self.answering = answering
        self.store = store
        self.wake = wake

    async def upload(self, data: bytes) -> str:
        file = await self.client.files.create(file=("in.jsonl", data), purpose="batch")
        return file.id

    async def create(self, data: bytes, **fields: Any) -> Any:
        return await self.client.batches.create(
            input_file_id=await self.upload(data),
            endpoint=ENDPOINT,
            completion_window="24h",
            **fields,
        )

    async def ended(self, batch: str) -> Any:
        deadline = time.monotonic() + 90
        while True:
            found = await self.client.batches.retrieve(batch)
            if found.status in documents.ENDED:
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)

    async def content(self, file: str | None) -> list[Any]:
        assert file is not None
        return [
            json.loads(line) for line in (await self.client.files.content(file)).text.splitlines()
        ]


@contextlib.asynccontextmanager
async def running(
    store: Store,
    answering: Answering | None = None,
    access: Any = None,
    api_key: str = "none",
    clock: Callable[[], float] = time.time,
    *,
    runs: bool = True,
    max_file_bytes: int = 1 << 20,
    quota: Quota = ROOM,
) -> AsyncIterator[Running]:
    answering = answering or Answering()
    batch_store = BatchStore(store, 30, clock)
    failures: Counter[str] = Counter()

    def failed() -> None:
        failures["store"] += 1

    runner = Runner(
        batch_store,
        {ENDPOINT: answering},
        concurrent=4,
        most_requests=100,
        store_failed=failed,
    )
    routes = BatchRoutes(
        batch_store,
        access or OpenAccess(),
        [ENDPOINT],
        max_file_bytes=max_file_bytes,
        quota=quota,
        wake=runner.wake,
        store_failed=failed,
    )
    socket = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{socket.getsockname()[1]}/v1"
    task = asyncio.create_task(runner.run()) if runs else None
    async with serving(
        [Listener(Router(routes.exact(), routes.below()), socket, None)], stop_timeout_s=5
    ):
        async with openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0) as client:
            yield Running(client, answering, batch_store, routes, runner.wake, failures)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def parts_removed(batch_store: BatchStore, batch: str) -> None:
    """Wait until no part is left of a batch: they are removed after it has ended."""
    deadline = time.monotonic() + 60
    while batch_store.parts(batch):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(str(tmp_path / "shelf"), alone=False)


async def test_a_batch_goes_from_a_file_to_a_file(store: Store) -> None:
    async with running(store) as api:
        texts = [f"text {'x' * n}" for n in range(90)]
        batch = await api.create(lines(*texts), metadata={"job": "nightly"})
        assert batch.status not in {"failed", "expired", "cancelled"}
        done = await api.ended(batch.id)
        assert done.status == "completed"
        assert (done.request_counts.total, done.request_counts.completed) == (90, 90)
        assert done.error_file_id is None
        assert done.metadata == {"job": "nightly"}
        assert done.completed_at >= done.finalizing_at >= done.in_progress_at >= done.created_at
        content = await api.content(done.output_file_id)
        answers = {each["custom_id"]: each["response"] for each in content}
        for number, text in enumerate(texts):
            answer = answers[f"request-{number}"]
            assert answer["status_code"] == 200
            assert answer["body"]["data"][0]["embedding"] == [len(text)]
        assert set(api.answering.asked.values()) == {1}
        assert [each.id async for each in await api.client.batches.list()] == [batch.id]
        (told,) = api.routes.recent()  # what operators see: how far it is, and not what it holds
        assert told == {
            "id": batch.id,
            "endpoint": ENDPOINT,
            "status": "completed",
            "created_at": batch.created_at,
            "request_counts": {"total": 90, "completed": 90, "failed": 0},
        }
        output = await api.client.files.retrieve(done.output_file_id)
        assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        await parts_removed(api.store, batch.id)
    assert not api.failures


async def test_requests_that_are_refused_are_in_the_errors(store: Store) -> None:
    def refusing(text: str) -> Response:
        if text == "bad":
            return Response(orjson.dumps({"error": {"code": "empty"}}), 400)
        return Answering.good(text)

    answering = Answering()
    answering.answer = refusing
    async with running(store, answering) as api:
        done = await api.ended((await api.create(lines("a", "bad", "b"))).id)
        assert (done.status, done.request_counts.failed) == ("completed", 1)
        (error,) = await api.content(done.error_file_id)
        assert error["custom_id"] == "request-1"
        assert error["response"]["status_code"] == 400
        assert error["response"]["body"]["error"]["code"] == "empty"
        assert len(await api.content(done.output_file_id)) == 2


async def test_a_service_without_room_is_asked_again(store: Store) -> None:
    answering = Answering()
    answering.answer = lambda text: (
        Response(b"{}", 429) if answering.asked[text] < 3 else Answering.good(text)
    )
    async with running(store, answering) as api:
        done = await api.ended((await api.create(lines("a", "b"))).id)
        assert (done.status, done.request_counts.completed) == ("completed", 2)


async def test_errors_of_lines_are_reported_and_nothing_is_run(store: Store) -> None:
    twice = lines("a") + lines("b")
    wrong = b'not json\n{"custom_id":"x"}\n' + lines("c", custom_id="y", method="GET")
    wrong += lines("d", custom_id="z", url="/v1/chat/completions")
    async with running(store) as api:
        done = await api.ended((await api.create(twice + b"\n" + wrong)).id)
        assert done.status == "failed"
        told = [(each.line, each.code) for each in done.errors.data]
        assert told == [
            (2, "duplicate_custom_id"),
            (4, "invalid_json_line"),
            (5, "invalid_json_line"),
            (6, "invalid_method"),
            (7, "mismatched_url"),
        ]
        empty = await api.ended((await api.create(b"\n\n")).id)
        assert empty.errors.data[0].code == "empty_file"
        many = await api.ended((await api.create(lines(*["a"] * 101))).id)
        assert many.errors.data[0].code in {"too_many_tasks", "duplicate_custom_id"}
        assert not api.answering.asked


async def test_a_batch_that_is_cancelled_keeps_what_was_answered(store: Store) -> None:
    answering = Answering()
    async with running(store, answering) as api:
        answering.answer = answering.until(1)
        batch = await api.create(lines(*(f"{n}" for n in range(50))))
        deadline = time.monotonic() + 60
        while not answering.answered:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        told = await api.client.batches.cancel(batch.id)
        assert told.status == "cancelling"
        done = await api.ended(batch.id)
        assert done.status == "cancelled"
        assert done.cancelled_at >= done.cancelling_at
        count = done.request_counts.completed
        assert 1 <= count < 50
        assert len(await api.content(done.output_file_id)) == count
        with pytest.raises(openai.BadRequestError, match="nothing to cancel"):
            await api.client.batches.cancel(batch.id)


async def test_what_was_answered_before_a_stop_is_not_asked_again(store: Store) -> None:
    first, second = Answering(), Answering()
    texts = [f"{n}" for n in range(80)]
    async with running(store, first) as api:
        first.answer = first.until(30)
        batch = await api.create(lines(*texts))
        deadline = time.monotonic() + 60
        while api.store.state(batch.id).completed < 30:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    async with running(store, second) as api:
        done = await api.ended(batch.id)
        assert (done.status, done.request_counts.completed) == ("completed", 80)
        answers = await api.content(done.output_file_id)
        assert Counter(each["custom_id"] for each in answers) == {
            f"request-{n}": 1 for n in range(80)
        }
    assert first.asked + second.asked == Counter(texts)


class Weighing(LocalStore):
    """Notes the most that is written of answers at once."""

    most = 0

    def write(self, name: str, parts: Parts) -> Written:
        held = list(parts)
        if "/parts/" in name:
            self.most = max(self.most, sum(map(len, held)))
        return super().write(name, held)


async def test_large_answers_are_kept_before_others_are_asked_for(tmp_path: Path) -> None:
    answering, size = Answering(), PART_BYTES // 8
    large = Response(orjson.dumps({"data": "x" * size}))
    answering.answer = lambda _: large
    store = Weighing(tmp_path / "shelf", alone=False)
    async with running(store, answering) as api:
        batch = await api.create(lines(*(f"text {n}" for n in range(40))))
        done = await api.ended(batch.id)
        assert done.request_counts.completed == 40
    assert size < store.most <= PART_BYTES + 5 * (size + 1000)


class Full(LocalStore):
    """A disk without room for answers, at first."""

    refusals = 1

    def write(self, name: str, parts: Parts) -> Written:
        if "/parts/" in name and self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(name, parts)


async def test_a_batch_waits_while_its_answers_can_not_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was answered waits too, and is not asked for again."""
    async with running(Full(tmp_path / "shelf", alone=False)) as api:
        batch = await api.create(lines("one", "two"))
        done = await api.ended(batch.id)

    assert (done.status, done.request_counts.completed) == ("completed", 2)
    assert set(api.answering.asked.values()) == {1}
    assert api.failures["store"] == 1
    place = tmp_path / "shelf"
    told = f"batch {batch.id} is waiting to store responses in {place}: No space left on device"
    assert told in caplog.text


class FullForDocuments(LocalStore):
    """A disk with room for the content of a file, and for no more."""

    def write(self, name: str, parts: Parts) -> Written:
        if name.endswith(".json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(name, parts)


async def test_an_upload_that_can_not_be_kept_takes_no_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = FullForDocuments(tmp_path / "shelf", alone=False)
    async with running(full) as api:
        with pytest.raises(openai.InternalServerError, match="No space left on device"):
            await api.upload(lines("one"))
    assert full.names("files") == []
    assert api.failures["store"] == 1
    told = f"a request for files or batches failed, {tmp_path / 'shelf'}: No space left on device"
    assert told in caplog.text


@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize("damage", [b"", b"\xff", b"[" * 100_000, b'{"id": 1}'])
async def test_damaged_documents_stop_no_batch(
    store: Store, damage: bytes, *, under_way: bool
) -> None:
    async with running(store) as api:
        for folder in ("files", "batches", "batches/states"):
            store.write(f"{folder}/batch-damaged.json", [damage])
        api.answering.hold.clear()  # else it may be completed by then, and nobody looks again
        batch = await api.create(lines("one"))
        if under_way:
            await until(lambda: api.store.state(batch.id).status == "in_progress")
        store.write(f"batches/states/{batch.id}.json", [damage])
        api.answering.hold.set()
        assert (await api.ended(batch.id)).status == "completed"
        assert len((await api.client.batches.list()).data) == 1
        assert api.store.files("")


async def in_progress(api: Running) -> Any:
    """A batch of one line, which is asked for and held."""
    api.answering.hold.clear()
    batch = await api.create(lines("one"))
    async with asyncio.timeout(60):
        while not api.answering.owners:
            await asyncio.sleep(0.01)
    return batch


@pytest.mark.parametrize("damage", [b"", b"[" * 100_000, b'{"id": 1}'])
async def test_a_state_that_is_lost_while_its_batch_runs_is_written_anew(
    store: Store, damage: bytes
) -> None:
    async with running(store) as api:
        batch = await in_progress(api)
        lose_state(store, batch.id, damage)
        api.answering.hold.set()
        done = await api.ended(batch.id)
        assert (done.status, done.request_counts.completed) == ("completed", 1)
        assert api.answering.asked == {"one": 1}


async def test_a_batch_that_another_gateway_has_gone_on_with_is_left_to_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answers are kept once, and who finds it next brings it to its end."""
    async with running(store) as api:
        batch = await in_progress(api)
        at = {"in_progress": batch.created_at, "ending_as_completed": batch.created_at}
        api.store.set_state(batch.id, State(status="finalizing", total=1, at=at))
        api.answering.hold.set()
        done = await api.ended(batch.id)
        assert (done.status, done.request_counts.completed) == ("completed", 1)
        assert api.answering.asked == {"one": 1}
    assert caplog.text.count(f"another gateway has resumed batch {batch.id}") == 1


@pytest.mark.parametrize(
    ("damage", "end", "restarted"),
    [
        (b"", "completed", False),
        (None, "completed", True),
        (bytes(64), "failed", True),
        (b"{}", "cancelled", True),
    ],
)
async def test_a_batch_whose_state_is_lost_after_its_end_comes_to_it_again_and_asks_nothing(
    store: Store, damage: bytes | None, end: str, *, restarted: bool
) -> None:
    answering = Answering()
    if end == "cancelled":
        answering.hold.clear()
    async with running(store, answering) as api:
        batch = await api.create(lines("one", "two", method="GET" if end == "failed" else "POST"))
        if end == "cancelled":
            await api.client.batches.cancel(batch.id)
        before = await api.ended(batch.id)
        answers = await api.content(before.output_file_id) if before.output_file_id else []
        asked = answering.asked.copy()
        if not restarted:
            lose_state(store, batch.id, damage)
            await api.client.batches.retrieve(batch.id)  # by which it is found
            api.wake()
            after = await api.ended(batch.id)
    if restarted:
        lose_state(store, batch.id, damage)
        async with running(store, answering) as api:
            after = await api.ended(batch.id)
            await parts_removed(api.store, batch.id)
    assert (after.status, after.request_counts) == (before.status, before.request_counts)
    assert (after.output_file_id, after.errors) == (before.output_file_id, before.errors)
    assert answering.asked == asked
    async with running(store, answering, runs=False) as api:
        assert answers == (await api.content(after.output_file_id) if answers else [])


def lose_state(store: Store, batch: str, damage: bytes | None) -> None:
    name = f"batches/states/{batch}.json"
    if damage is None:
        store.remove(name)
    else:
        store.write(name, [damage])


async def test_answers_outlive_the_state_the_input_and_the_window_of_their_batch(
    store: Store,
) -> None:
    now = [1_000_000.0]
    answering = Answering()
    answering.answer = lambda text: answering.good(text) if text != "bad" else Response(b"{}", 400)
    async with running(store, answering, clock=lambda: now[0]) as api:
        kept = await api.create(lines("one", "bad"))
        deleted = await api.create(lines("two", "bad"))
        before = [await api.ended(each.id) for each in (kept, deleted)]
        await api.client.files.delete(deleted.input_file_id)
        now[0] += documents.WINDOW_S
        for each in (kept, deleted):
            lose_state(store, each.id, b"")
            await api.client.batches.retrieve(each.id)
        api.wake()
        after = [await api.ended(each.id) for each in (kept, deleted)]
        for one, other in zip(before, after, strict=True):
            assert one.request_counts == other.request_counts
            for file in ("output_file_id", "error_file_id"):
                assert getattr(one, file) == getattr(other, file)
            assert len(await api.content(other.output_file_id)) == 1
    assert after[0].status == "completed"
    assert after[1].status in {"expired", "failed"}
    assert answering.asked == {"one": 1, "two": 1, "bad": 2}


async def test_damaged_states_of_ended_batches_are_found_by_the_runner(
    store: Store,
) -> None:
    """Another gateway may be the one that is asked."""
    async with running(store) as api:
        batch = await api.create(lines("one"))
        await api.ended(batch.id)
        assert not api.store.waiting()
        lose_state(store, batch.id, b"")
        api.store.remove_expired()
        api.wake()
        assert (await api.ended(batch.id)).status == "completed"


THINGS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda at: at.write_bytes(b""),
    "text": lambda at: at.write_bytes(b"o 2 no answer\nnotes"),
    "zeros": lambda at: at.write_bytes(bytes(4096)),
    "half an answer": lambda at: at.write_bytes(b'o 2 {"id":"a","custom_id":"request-1"}'),
    "folder": lambda at: at.mkdir(),
    "link to nowhere": lambda at: at.symlink_to("nowhere"),
    "link to itself": lambda at: at.symlink_to(at.name),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("thing", THINGS)
async def test_what_is_foreign_among_the_files_costs_no_batch(tmp_path: Path, thing: str) -> None:
    """Backups, file systems after a loss of power, and other programs leave such things."""
    store, make = LocalStore(tmp_path, alone=False), THINGS[thing]
    async with running(store, runs=False) as api:
        batch = await api.create(lines("one", "two", "three"))
        fails = await api.create(lines("four"))
        kept = State(status="in_progress", total=3, completed=2, at={"in_progress": 1})
        api.store.set_state(batch.id, kept)
        line = b'{"id":"a","custom_id":"request-0","response":{"body":{}},"error":null}\n'
        api.store.add_part(batch.id, 0, [b"o 1 " + line])
        store.write("batches/cancelled/x", [b"1"])
    for name in (
        *("files/x.json", "files/x.data", f"files/file-{'x' * 24}.json"),
        *("batches/x.json", f"batches/batch-{'x' * 24}.json", "batches/cancelled/y"),
        *(f"batches/parts/{batch.id}/{part}" for part in ("x", "000001-notes", "000001-0123abcd")),
    ):
        make(tmp_path / name)
    if thing == "folder":  # nobody knows what became of this one
        (tmp_path / f"batches/states/{fails.id}.json").mkdir()
    async with running(store) as api:
        done = await api.ended(batch.id)
        assert (done.status, done.request_counts.completed) == ("completed", 3)
        answers = await api.content(done.output_file_id)
        assert sorted(each["custom_id"] for each in answers) == [
            f"request-{number}" for number in range(3)
        ]
        assert not api.answering.asked["one"]
        for _ in range(3):
            api.store.remove_expired()
        assert {batch.id, fails.id} <= {each.id for each in api.store.batches()}


async def test_answers_that_an_older_release_kept_are_used_and_removed(tmp_path: Path) -> None:
    """Their files had numbers for names."""
    store = LocalStore(tmp_path, alone=False)
    async with running(store, runs=False) as api:
        batch = await api.create(lines("one", "two"))
        line = b'{"id":"a","custom_id":"request-0","response":{"body":{}},"error":null}\n'
        store.write(f"batches/parts/{batch.id}/000007", [b"o 1 " + line])
    async with running(store) as api:
        assert (await api.ended(batch.id)).request_counts.completed == 2
        assert not api.answering.asked["one"]
        api.store.remove_expired()
        assert store.names(f"batches/parts/{batch.id}") == []


async def test_a_clock_that_is_wrong_for_a_while_deletes_nothing(store: Store) -> None:
    now = [1_000_000.0]
    async with running(store, clock=lambda: now[0], runs=False) as api:
        file = await api.upload(b"x")
        for jump in (1e9, -1e6, 0.0):
            now[0] = 1_000_000.0 + jump
            api.store.remove_expired()
        assert (await api.client.files.content(file)).content == b"x"


async def test_a_batch_for_an_endpoint_of_another_version_waits_for_it(store: Store) -> None:
    async with running(store) as api:
        newer = await api.create(lines("one"))
        await api.ended(newer.id)
        document = orjson.loads(store.read(f"batches/{newer.id}.json"))
        document |= {"id": f"batch-{'0' * 24}", "endpoint": "/v2/of-the-future"}
        store.write(f"batches/batch-{'0' * 24}.json", [orjson.dumps(document)])
        batch = await api.create(lines("two"))
        assert (await api.ended(batch.id)).status == "completed"
        assert api.store.state(f"batch-{'0' * 24}").status == "validating"
        assert api.answering.asked == {"one": 1, "two": 1}


async def test_batches_that_take_longer_than_their_window_expire(store: Store) -> None:
    now = [1_000_000.0]
    answering = Answering()
    answering.hold.clear()
    async with running(store, answering, clock=lambda: now[0]) as api:
        batch = await api.create(lines("a", "b"))
        now[0] += documents.WINDOW_S
        done = await api.ended(batch.id)
        assert done.status == "expired"
        told = await api.content(done.error_file_id)
        assert [each["error"]["code"] for each in told] == ["batch_expired"] * 2
        assert all(each["response"] is None for each in told)


async def test_batches_are_removed_as_their_files_are(store: Store) -> None:
    """Those that ended: the others are still to be run."""
    now = [1_000_000.0]
    async with running(store, clock=lambda: now[0]) as api:
        ended = await api.create(lines("one"))
        await api.ended(ended.id)
    async with running(store, clock=lambda: now[0], runs=False) as api:
        waiting = await api.create(lines("two"))
        now[0] += 30 * 86_400
        api.store.remove_expired()
        api.store.remove_expired()

        assert [each.id for each in api.store.batches()] == [waiting.id]
        assert [each.id for each in api.store.waiting()] == [waiting.id]
    left = [
        each
        for folder in ("", "states", "cancelled", "parts")
        for each in store.names(f"batches/{folder}")
        if ended.id in each
    ]
    assert not left


async def test_of_batches_that_ended_nothing_is_read_again(tmp_path: Path) -> None:
    """A gateway looks for work every other second, and they add up."""
    async with running(LocalStore(tmp_path / "shelf", alone=False)) as api:
        batch = await api.create(lines("one"))
        await api.ended(batch.id)
    store = Reading(tmp_path / "shelf", alone=False)  # of another gateway, that reads by itself
    kept = BatchStore(store, 30)
    assert not kept.waiting()
    assert store.read_names
    store.read_names.clear()
    assert not kept.waiting()
    assert not store.read_names


class Reading(LocalStore):
    """Notes what is read."""

    def __init__(self, path: Path, *, alone: bool) -> None:
        super().__init__(path, alone=alone)
        self.read_names: list[str] = []

    def read(self, name: str) -> bytes:
        self.read_names.append(name)
        return super().read(name)


def test_files_of_all_owners_are_read_once_however_often_one_lists_its_own(tmp_path: Path) -> None:
    others = BatchStore(LocalStore(tmp_path / "shelf", alone=False), 30)
    for number in range(5):
        others.add_file("other", f"{number}.jsonl", "batch", [b"x"])
    store = Reading(tmp_path / "shelf", alone=False)
    kept = BatchStore(store, 30)
    assert kept.files("mine") == []
    assert len(store.read_names) == 5
    store.read_names.clear()
    mine = others.add_file("mine", "mine.jsonl", "batch", [b"x"])  # by another gateway
    assert kept.files("mine") == [mine]
    assert store.read_names == [f"files/{mine.id}.json"]
    others.remove_file(mine.id)
    assert kept.files("mine") == []


@pytest.mark.parametrize("local", [True, False])
def test_uploads_at_once_never_pass_the_quota_together(tmp_path: Path, *, local: bool) -> None:
    """Every upload waits until all have been written, so that each saw a shelf with room."""
    address = f"{tmp_path}/shelf" if local else f"memory://{tmp_path}"
    gateways = [BatchStore(store_at(address, alone=False), 30) for _ in range(3 if local else 1)]
    written = threading.Barrier(6)
    quota = replace(ROOM, bytes=1000)

    def upload(number: int) -> bool:
        def parts() -> Iterator[bytes]:
            yield b"x" * 400
            written.wait(60)

        kept = gateways[number % len(gateways)]
        kept.check_quota("mine", 400, quota)
        try:
            kept.add_file("mine", "in.jsonl", "batch", parts(), quota=quota)
        except CallerError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        accepted = list(threads.map(upload, range(6)))
    assert sum(accepted) == 2
    assert sum(each.bytes for each in gateways[0].files("mine")) == 800
    assert len(gateways[0].store.names("files")) == 4  # nothing is left of those refused


async def test_files_are_their_owners_alone(store: Store) -> None:
    ring = KeyRing(plain([ONE, TWO], datetime.now(UTC), "a test"))
    async with running(store, access=ring, api_key=ONE) as api:
        batch = await api.create(lines("a"))
        done = await api.ended(batch.id)
        (owner,) = api.answering.owners
        assert owner
        other = api.client.with_options(api_key=TWO)
        assert [each async for each in await other.files.list()] == []
        assert [each async for each in await other.batches.list()] == []
        for asked in (
            other.files.retrieve(done.output_file_id),
            other.files.content(done.output_file_id),
            other.files.delete(done.output_file_id),
            other.batches.retrieve(batch.id),
            other.batches.cancel(batch.id),
            other.batches.create(
                input_file_id=done.input_file_id, endpoint=ENDPOINT, completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                await asked
        with pytest.raises(openai.AuthenticationError):
            await api.client.with_options(api_key="wrong").files.list()


async def test_files_are_listed_shown_and_deleted(store: Store) -> None:
    now = [1_000_000.0]
    async with running(store, clock=lambda: now[0], runs=False) as api:
        ids = []
        for content in (b"one", b"two two", b""):
            now[0] += 1
            ids.append(await api.upload(content))
        listed = [each.id async for each in await api.client.files.list()]
        assert listed == ids[::-1]
        page = await api.client.files.list(limit=1, order="asc")
        assert [each.id async for each in page] == ids
        shown = await api.client.files.retrieve(ids[1])
        assert (shown.bytes, shown.filename, shown.purpose) == (7, "in.jsonl", "batch")
        assert (await api.client.files.content(ids[1])).content == b"two two"
        assert (await api.client.files.delete(ids[1])).deleted
        for gone in (ids[1], "file-nonsense", "../../etc/passwd"):
            with pytest.raises(openai.NotFoundError):
                await api.client.files.retrieve(gone)
        now[0] += 31 * 86_400
        with pytest.raises(openai.NotFoundError):
            await api.client.files.retrieve(ids[0])
        api.store.remove_expired()
        api.store.remove_expired()
        assert store.names("files") == []


async def test_uploads_are_bounded_and_forms_are_checked(store: Store) -> None:
    async with running(store, max_file_bytes=1000, quota=replace(ROOM, bytes=1500)) as api:
        await api.upload(b"x" * 1000)
        with pytest.raises(openai.APIStatusError) as caught:
            await api.upload(b"x" * 1001)
        assert caught.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="delete some"):
            await api.upload(b"x" * 600)
        input_ = await api.upload(b"x" * 500)
        with pytest.raises(openai.BadRequestError, match="delete some"):  # for its answers
            await api.client.batches.create(
                input_file_id=input_, endpoint=ENDPOINT, completion_window="24h"
            )
        with pytest.raises(openai.BadRequestError, match="`purpose` must be one of"):
            await api.client.files.create(file=b"x", purpose="nonsense")  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match="`endpoint` must be one of"):
            await api.client.batches.create(
                input_file_id="x", endpoint="/v1/responses", completion_window="24h"
            )
        url = f"{api.client.base_url}files"
        async with httpx2.AsyncClient() as plain:
            for status, headers, body in (
                (415, {}, b""),
                (415, {"content-type": "application/json"}, b"{}"),
                (400, {"content-type": "multipart/form-data"}, b"x"),
                (400, {"content-type": "multipart/form-data; boundary=b"}, b"nonsense"),
                (400, {"content-type": "multipart/form-data; boundary=b"}, b"--b\r\n\r\nhalf"),
            ):
                answer = await plain.post(url, content=body, headers=headers)
                assert answer.status_code == status, (headers, answer.text)


def test_a_line_is_a_request_or_has_a_fault() -> None:
    good = documents.line_of(3, lines("a").strip(), ENDPOINT)
    assert isinstance(good, documents.Line)
    assert orjson.loads(good.body) == {"model": "m", "input": "a"}
    text = documents.answered("r", good, 200, "id", b'{"x":1}')
    assert orjson.loads(text) == {
        "id": "r",
        "custom_id": "request-0",
        "response": {"status_code": 200, "request_id": "id", "body": {"x": 1}},
        "error": None,
    }
    assert isinstance(documents.line_of(1, b"[" * 10_000, ENDPOINT), LineFault)
    assert isinstance(documents.line_of(1, lines("a", body=[1]).strip(), ENDPOINT), LineFault)
    assert State().status == "validating"


@given(st.integers(0, 200), st.sampled_from([b"", b"\xff", b"\xc3", b"[" * 50_000]))
def test_a_line_or_an_order_that_is_damaged_anywhere_is_a_fault_or_refused(
    at: int, damage: bytes
) -> None:
    """One that raised anything else would hold up its batch for ever."""
    line = lines("a").strip()
    found = documents.line_of(1, line[:at] + damage + line[at + 1 :], ENDPOINT)
    assert isinstance(found, LineFault | documents.Line)

    order = b'{"input_file_id":"file-1","endpoint":"/v1/embeddings","completion_window":"24h"}'
    with contextlib.suppress(CallerError):
        documents.wanted(order[:at] + damage + order[at + 1 :], {ENDPOINT: None})
