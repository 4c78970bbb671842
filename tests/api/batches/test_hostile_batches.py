"""Whatever is sent to `/v1/files` and `/v1/batches`, and whatever becomes of the store, a line of a
batch has one answer, and a request a status that says whose fault it was.
"""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import IO, Any, Literal

import httpx2
import openai
import openai.types
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from embedfleet.api.batches import documents, runner
from embedfleet.api.batches.documents import Line, LineFault
from embedfleet.api.batches.runner import Runner
from embedfleet.api.batches.store import BatchStore
from embedfleet.api.batches.uploading import read_form
from embedfleet.runtime.folders import LocalStore, Parts, Store, Written
from embedfleet.transport.asgi import Request, Response
from embedfleet.vocabulary import CallerError
from tests.api.batches.test_batches import ENDPOINT, Answering, Running, lines, running, until

TEXTS = [f"text {n}" for n in range(20)]
DEADLINE_S = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


@pytest.fixture
def store(path: Path) -> Store:
    return LocalStore(path, alone=False)


# Lines


def mutated(rng: Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(4):
            case 0:
                found[at:at] = bytes([rng.choice([0, 0xFF, 0xEF, 0xC3, 0x22, 0x5C, 0x7B, 0x0D])])
            case 1:
                del found[at : at + rng.randint(1, 9)]
            case 2:
                found[at:at] = rng.choice([b"\\ud800", b"\xed\xa0\x80", b"{}", b"null", b"1e999"])
            case _:
                found[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(found)


def check_line(text: bytes) -> None:
    for found in documents.lines_of(iter([text]), ENDPOINT):
        assert found.number == 1 if isinstance(found, Line) else found.line == 1
        if isinstance(found, Line):
            told = documents.answered("r", found, 200, "r", b'{"a":\n"\\n"}')
            assert told.count(b"\n") == 1
            assert orjson.loads(told)["custom_id"] == found.custom_id
            assert orjson.loads(documents.unanswered("r", found, "c", "m"))["error"]
        else:
            assert json.loads(json.dumps(found.message)) == found.message
            found.message.encode()


@given(st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_no_line_is_anything_but_a_request_or_a_fault(rng: Random) -> None:
    check_line(mutated(rng, lines("é \\ud83d").strip()))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"custom_id":"\xff","method":"POST","url":"/v1/embeddings","body":{}}', "invalid_json"),
        (b'{"custom_id":"\\ud800","method":"POST","url":"/v1/embeddings","body":{}}', "invalid"),
        (b'{"method":"POST","url":"/v1/embeddings","body":{}}', "invalid_json_line"),
        (b'{"custom_id":1,"method":"POST","url":"/v1/embeddings","body":{}}', "invalid_json_line"),
        (b"\x00", "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (lines("a", method="GET").strip(), "invalid_method"),
        (lines("a", url="/v1/embeddings/").strip(), "mismatched_url"),
        (lines("a", body="x").strip(), "invalid_type"),
        (b"x" * (documents.LONGEST_LINE + 1), "line_too_long"),
    ],
)
def test_faults_of_lines_have_codes(text: bytes, code: str) -> None:
    (found,) = documents.lines_of(iter([text]), ENDPOINT)
    assert isinstance(found, LineFault)
    assert found.code.startswith(code)


class ShortReads(io.RawIOBase):
    """Gives a few bytes at a time, as an object store may."""

    def __init__(self, data: bytes, rng: Random) -> None:
        self._left = data
        self._rng = rng

    def read(self, size: int = -1) -> bytes:
        most = self._rng.randint(1, 7)
        found, self._left = self._left[:most], self._left[most:]
        return found


@given(st.lists(st.binary(max_size=12)), st.booleans(), st.randoms(use_true_random=False))
@example([b"", b""], True, Random(0))
def test_lines_are_those_of_the_file_however_little_is_read_at_once(
    texts: list[bytes],
    ended: bool,
    rng: Random,
) -> None:
    data = b"\n".join(texts) + b"\n" * ended

    class Opening(LocalStore):
        def open(self, name: str) -> IO[bytes]:
            return ShortReads(data, rng)  # type: ignore[return-value]

    batch_store = BatchStore(Opening(Path("unused"), alone=False), 30)
    expected = data.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert list(batch_store.lines("x")) == expected
    assert list(batch_store.lines("x", 5)) == [each[:6] for each in expected]


@pytest.mark.slow
async def test_a_mark_of_byte_order_and_ends_of_windows_are_no_fault(store: Store) -> None:
    data = b"\xef\xbb\xbf" + lines("a", "b").replace(b"\n", b"\r\n")
    async with running(store) as api:
        done = await api.ended((await api.create(data)).id)
        assert (done.status, done.request_counts.completed) == ("completed", 2)


@pytest.mark.slow
async def test_a_batch_takes_as_many_requests_as_it_says(store: Store) -> None:
    async with running(store) as api:
        done = await api.ended((await api.create(lines(*map(str, range(101))))).id)
        assert [each.code for each in done.errors.data] == ["too_many_tasks"]
        assert "more than 100 requests" in done.errors.data[0].message
        assert not api.answering.asked
        done = await api.ended((await api.create(lines(*map(str, range(100))))).id)
        assert done.status == "completed"


# Forms


def form(parts: list[tuple[bytes, bytes]], boundary: bytes = b"b") -> bytes:
    whole = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary, head, data)
        for head, data in parts
    )
    return whole + b"--%b--\r\n" % boundary


GOOD = form([(b'name="purpose"', b"batch"), (b'name="file"; filename="in.jsonl"', lines("a"))])


def asked(body: bytes, rng: Random, kind: bytes = b"multipart/form-data; boundary=b") -> Request:
    pieces, left = [], body
    while left:
        size = rng.choice([1, 2, 7, 100, 5000])
        pieces.append(left[:size])
        left = left[size:]
    messages = [
        *({"type": "http.request", "body": each, "more_body": True} for each in pieces),
        {"type": "http.request", "body": b"", "more_body": False},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(_: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", kind)]}
    return Request(scope, receive, send)


@given(st.randoms(use_true_random=False), st.integers(0, 1000))
@settings(max_examples=150)
def test_a_form_is_read_or_refused_whatever_is_in_it(rng: Random, most: int) -> None:
    async def check(body: bytes) -> None:
        try:
            found = await read_form(asked(body, rng), most)
        except CallerError as error:
            assert error.status in {400, 413}  # noqa: PT017
        else:
            with found.content:
                assert len(found.content.read()) <= most

    asyncio.run(check(mutated(rng, GOOD)))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([(b'name="purpose"', b"x" * 5000)], "too long"),
        ([(b'name="f%d"' % n, b"") for n in range(40)], "too many fields"),
        ([(b'name="purpose"', b"batch")] * 40, "too many fields"),
        ([(b'name="file"; filename="a"', b"a")] * 2, "exactly one file"),
        ([(b'name="other"; filename="a"', b"a")], "exactly one file"),
        ([(b'name="x"\r\nX-%d: y' % n, b"") for n in range(9)] * 3, None),
        ([(b'name="x"; pad="' + b"y" * 60_000 + b'"', b"")], "can't be read"),
        ([(b"\r\n".join(b"name=x\r\nX-%d: y" % n for n in range(20)), b"")], "can't be read"),
    ],
)
async def test_forms_are_bounded_in_all_their_parts(
    parts: list[tuple[bytes, bytes]], told: str | None
) -> None:
    if told is None:
        (await read_form(asked(form(parts), Random(1)), 1000)).content.close()
        return
    with pytest.raises(CallerError, match=told):
        await read_form(asked(form(parts), Random(1)), 1000)


async def test_uploads_in_progress_have_bounded_room_and_give_it_back(store: Store) -> None:
    async with running(store, max_file_bytes=100_000) as api:
        url = api.client.base_url
        begun = []
        for size in (b"content-length: 1000000", b"transfer-encoding: chunked") * 2:
            _, writer = await asyncio.open_connection(url.host, url.port)
            head = b"host: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
            writer.write(b"POST /v1/files HTTP/1.1\r\n%b%b\r\n\r\n" % (head, size))
            begun.append(writer)

        async def come(expected: int) -> httpx2.Response:
            deadline = time.monotonic() + DEADLINE_S
            async with httpx2.AsyncClient() as plain:
                while True:
                    form = {"files": {"file": b"x"}, "data": {"purpose": "batch"}}
                    answer = await plain.post(f"{url}files", **form)  # type: ignore[arg-type]
                    if answer.status_code == expected:
                        return answer
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)

        refused = await come(429)
        assert refused.json()["error"]["code"] == "overloaded"
        assert refused.headers["retry-after"]
        begun.pop().close()
        await come(200)
        for writer in begun:
            writer.close()


@pytest.mark.slow
async def test_the_life_of_a_file_may_be_asked_for(store: Store) -> None:
    now = [1_000_000.0]
    async with running(store, clock=lambda: now[0]) as api:
        create, life = api.client.files.create, {"anchor": "created_at", "seconds": 3600}
        kept: Any = await create(file=("a", lines("a")), purpose="batch", expires_after=life)  # type: ignore[arg-type]
        assert kept.expires_at == kept.created_at + 3600
        long = {"anchor": "created_at", "seconds": 30 * 86_400}
        assert (await create(file=b"x", purpose="batch", expires_after=long)).status  # type: ignore[arg-type]
        for wrong in (
            {"anchor": "created_at", "seconds": 3599},
            {"anchor": "created_at", "seconds": 30 * 86_400 + 1},
            {"anchor": "last_used", "seconds": 3600},
            {"anchor": "created_at", "seconds": "x"},
            {"anchor": "created_at", "seconds": -(10**30)},
        ):
            with pytest.raises(openai.BadRequestError, match="expires_after"):
                await create(file=b"x", purpose="batch", expires_after=wrong)  # type: ignore[arg-type]
            with pytest.raises(openai.BadRequestError):
                await api.client.batches.create(
                    input_file_id=kept.id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    output_expires_after=wrong,  # type: ignore[arg-type]
                )
        batch = await api.client.batches.create(
            input_file_id=kept.id,
            endpoint=ENDPOINT,
            completion_window="24h",
            output_expires_after=life,  # type: ignore[arg-type]
        )
        done = await api.ended(batch.id)
        output = await api.client.files.retrieve(done.output_file_id)
        assert output.expires_at == output.created_at + 3600


# Requests


@pytest.mark.slow
async def test_no_value_of_a_request_is_an_error_of_the_service(store: Store) -> None:
    strange = ["x", "..", "%00", "file-" + "x" * 24, "batch-" + "0" * 24, "a/b/c", "%2e%2e%2f", "é"]
    strange += ["../" * 9 + "etc/passwd", "file-" + "a" * 5000, "..%5c", "file-%0a", "'--"]
    async with running(store, runs=False) as api:
        known = await api.upload(lines("a"))
        root = str(api.client.base_url)
        async with httpx2.AsyncClient(timeout=60) as plain:
            for value in strange:
                for method, route in (
                    ("GET", f"files/{value}"),
                    ("GET", f"files/{value}/content"),
                    ("DELETE", f"files/{value}"),
                    ("GET", f"batches/{value}"),
                    ("POST", f"batches/{value}/cancel"),
                    ("GET", f"files/{known}/x{value}"),
                    ("DELETE", f"files/{known}/content"),
                ):
                    answer = await plain.request(method, root + route)
                    assert 400 <= answer.status_code < 500, (method, route, answer.text)
                    assert answer.json()["error"]["message"]
            for query in ("limit=0", "limit=-1", "limit=1.5", "limit=9e9", "limit=%00", "limit=١",
                          "limit=99999999999", "after=x", f"after={'x' * 5000}", "after=batch-1",
                          "limit=true"):  # fmt: skip
                for route in ("files", "batches"):
                    answer = await plain.get(f"{root}{route}?{query}")
                    assert answer.status_code == 400, (route, query, answer.text)
            assert (await plain.get(f"{root}files?order=up")).status_code == 400
            for query in ("", "after=&limit=", "limit=10000", f"after={known}", "&&==&%%"):
                assert (await plain.get(f"{root}files?{query}")).status_code == 200, query
            good = {"input_file_id": known, "endpoint": ENDPOINT, "completion_window": "24h"}
            changes: tuple[dict[str, Any], ...] = (
                {"input_file_id": None}, {"input_file_id": "../x"}, {"endpoint": "/v1/x"},
                {"input_file_id": "file-" + "0" * 24}, {"completion_window": "1h"},
                {"metadata": {str(n): "x" for n in range(17)}}, {"metadata": {"k" * 65: "x"}},
                {"metadata": {"k": "x" * 513}}, {"metadata": {"k": 1}}, {"metadata": []},
                {"metadata": {"k": "\ud800"}}, {"metadata": {"k": None}},
            )  # fmt: skip
            for body in (
                b"", b"[]", b"null", b"\xff", b'"\xff"', b"{" * 5000, b"[" * 200_000,
                b"x" * (2 << 20),
                *(json.dumps(good | change).encode() for change in changes),
                json.dumps(good).encode().replace(b"24h", b"\xff"),
            ):  # fmt: skip
                answer = await plain.post(f"{root}batches", content=body)
                assert 400 <= answer.status_code < 500, (body[:80], answer.text)
            most = {"é" * 63 + chr(65 + n): "😀" * 512 for n in range(16)}
            answer = await plain.post(f"{root}batches", json=good | {"metadata": most})
            assert answer.status_code == 200
            assert answer.json()["metadata"] == most
        assert len(store.names("batches")) == 1


@pytest.mark.slow
async def test_pages_hold_everything_once_in_order(store: Store) -> None:
    async with running(store, runs=False) as api:
        ids = [await api.upload(b"x") for _ in range(7)]
        orders: tuple[Literal["asc", "desc"], ...] = ("asc", "desc")
        for order in orders:
            whole = [each.id async for each in await api.client.files.list(order=order)]
            assert sorted(whole) == sorted(ids)
            for size in (1, 2, 3, 7, 8):
                page = await api.client.files.list(order=order, limit=size)
                assert len(page.data) == min(size, 7)
                assert page.has_more == (size < 7)
                assert [each.id async for each in page] == whole
        batches = [
            (
                await api.client.batches.create(
                    input_file_id=each, endpoint=ENDPOINT, completion_window="24h"
                )
            ).id
            for each in [ids[0]] * 3
        ]
        found = [each.id async for each in await api.client.batches.list(limit=1)]
        assert sorted(found) == sorted(batches)


@pytest.mark.slow
async def test_objects_are_exactly_those_of_openai(path: Path) -> None:
    now = [1_000_000.0]

    def strict(kind: Any, shown: Any) -> None:
        kind.model_validate(shown.model_dump(), strict=True)

    answering = Answering()
    answering.answer = lambda text: Response(b"{}", 400 if text == "bad" else 200)
    async with running(LocalStore(path, alone=False), answering, clock=lambda: now[0]) as api:
        seen = set()
        for data in (lines("a", "bad"), b"nonsense"):
            batch = await api.create(data)
            strict(openai.types.Batch, batch)
            done = await api.ended(batch.id)
            strict(openai.types.Batch, done)
            seen.add(done.status)
        answering.hold.clear()
        held = [await api.create(lines("x")) for _ in range(2)]
        strict(openai.types.Batch, await api.client.batches.cancel(held[0].id))
        seen.add((await api.ended(held[0].id)).status)
        now[0] += documents.WINDOW_S
        done = await api.ended(held[1].id)
        strict(openai.types.Batch, done)
        seen.add(done.status)
        assert seen == documents.ENDED
        async for file in await api.client.files.list():
            strict(openai.types.FileObject, file)


# What becomes of batches


@pytest.mark.slow
async def test_a_batch_that_is_to_end_before_it_begins_asks_nothing(path: Path) -> None:
    now = [1_000_000.0]
    store = LocalStore(path, alone=False)
    async with running(store, clock=lambda: now[0], runs=False) as api:
        cancelled = await api.create(lines("a"))
        await api.client.batches.cancel(cancelled.id)
        await api.client.batches.cancel(cancelled.id)
        expired = await api.create(lines("a"))
    now[0] += documents.WINDOW_S
    async with running(store, clock=lambda: now[0]) as api:
        assert (await api.ended(cancelled.id)).status == "cancelled"
        done = await api.ended(expired.id)
        assert (done.status, done.request_counts.failed) == ("expired", 1)
        assert not api.answering.asked
        with pytest.raises(openai.BadRequestError, match="nothing to cancel"):
            await api.client.batches.cancel(cancelled.id)


@pytest.mark.slow
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_file_that_is_deleted_in_use_ends_its_batch_with_what_was_answered(
    restarted: bool,
    path: Path,
) -> None:
    store, answering = LocalStore(path, alone=False), Answering()
    answering.answer = answering.until(5)
    async with running(store, answering) as api:
        batch = await api.create(lines(*TEXTS))
        await until(lambda: api.store.state(batch.id).completed >= 5)
        await api.client.files.delete(batch.input_file_id)
        if not restarted:
            answering.hold.set()
            done = await api.ended(batch.id)
            assert done.request_counts.completed == len(TEXTS)
            return
    async with running(store) as api:
        done = await api.ended(batch.id)
        assert done.status == "failed"
        assert [each.code for each in done.errors.data] == ["input_file_deleted"]
        assert len(await api.content(done.output_file_id)) == done.request_counts.completed >= 5


@pytest.mark.slow
async def test_a_file_that_was_deleted_before_fails_its_batch(store: Store) -> None:
    async with running(store, runs=False) as api:
        batch = await api.create(lines("a"))
        await api.client.files.delete(batch.input_file_id)
    async with running(store) as api:
        done = await api.ended(batch.id)
        assert (done.status, done.errors.data[0].code) == ("failed", "input_file_deleted")


@pytest.mark.slow
async def test_one_file_may_be_the_input_of_many_batches_at_once(store: Store) -> None:
    async with running(store) as api:
        file = await api.upload(lines(*TEXTS[:5]))
        create = api.client.batches.create
        made = await asyncio.gather(
            *(
                create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h")
                for _ in range(9)
            )
        )
        for batch in made:
            done = await api.ended(batch.id)
            assert (done.status, done.request_counts.completed) == ("completed", 5)
        assert set(api.answering.asked.values()) == {9}


@pytest.mark.slow
async def test_a_line_that_breaks_the_service_is_an_error_and_the_others_are_answered(
    store: Store,
) -> None:
    answering = Answering()

    def breaking(text: str) -> Response:
        if text == "text 3":
            raise RuntimeError("a bug")
        return Answering.good(text)

    answering.answer = breaking
    async with running(store, answering) as api:
        done = await api.ended((await api.create(lines(*TEXTS))).id)
        assert (done.status, done.request_counts.failed) == ("completed", 1)
        (error,) = await api.content(done.error_file_id)
        assert error["response"]["status_code"] == 500
        assert error["response"]["body"]["error"]["message"].startswith("internal error")


@pytest.mark.slow
async def test_moments_stay_in_order_when_the_clock_is_set_back(path: Path) -> None:
    now = [1_000_000.0]

    def clock() -> float:
        now[0] -= 1000
        return now[0]

    async with running(LocalStore(path, alone=False), clock=clock) as api:
        done = await api.ended((await api.create(lines("a"))).id)
        assert done.completed_at >= done.finalizing_at >= done.in_progress_at >= done.created_at


@pytest.mark.slow
async def test_documents_that_are_damaged_cost_none_of_the_others(path: Path) -> None:
    store = LocalStore(path, alone=False)
    async with running(store) as api:
        batches = [await api.create(lines("a")) for _ in range(3)]
        for each in batches:
            await api.ended(each.id)
        output = (await api.client.batches.retrieve(batches[0].id)).output_file_id
    for name, data in (
        (f"batches/states/{batches[1].id}.json", b""),
        (f"batches/{batches[2].id}.json", b"{}"),
        ("files/file-000000000000000000000000.json", b"\xff"),
        ("batches/nonsense.json", b'{"id":1}'),
        (f"batches/cancelled/{batches[0].id}", b"soon"),
    ):
        store.write(name, [data])
    async with running(store) as api:
        again = await api.ended(batches[1].id)
        fresh = await api.ended((await api.create(lines("b"))).id)
        assert again.request_counts.completed == 1
        assert fresh.status == "completed"
        listed = {each.id: each.status async for each in await api.client.batches.list()}
        assert listed == {
            fresh.id: "completed",
            batches[0].id: "completed",
            batches[1].id: "completed",
        }
        assert len(await api.content(output)) == 1
        assert api.answering.asked == {"b": 1}
        api.store.remove_expired()


class Failing(LocalStore):
    """Ends, or has no room, at some operations on files."""

    def __init__(self, path: Path, fails: Callable[[int, str], BaseException | None]) -> None:
        super().__init__(path, alone=False)
        self._fails = fails
        self._count = itertools.count()

    def _check(self, name: str) -> None:
        error = self._fails(next(self._count), name)
        if error is not None:
            raise error

    def write(self, name: str, parts: Parts) -> Written:
        self._check(name)
        return super().write(name, parts)

    def read(self, name: str) -> bytes:
        self._check("")
        return super().read(name)

    def remove(self, name: str) -> None:
        self._check("")
        super().remove(name)


async def settled(api: Running, batch: str) -> None:
    done = await api.ended(batch)
    assert done.status == "completed", done
    answers = await api.content(done.output_file_id)
    expected = {f"request-{n}": [len(text)] for n, text in enumerate(TEXTS)}
    assert Counter(each["custom_id"] for each in answers) == Counter(expected.keys())
    for each in answers:
        assert each["response"]["body"]["data"][0]["embedding"] == expected[each["custom_id"]]
    assert done.request_counts.completed == len(TEXTS)


class KilledError(BaseException):
    """The end of a process."""


async def ended_at(operation: int, path: Path) -> bool:
    """Whether a runner ended at an operation on files; the next one settles its batch."""
    second, whole = Answering(), LocalStore(path, alone=False)
    async with running(whole, runs=False) as api:
        batch = await api.create(lines(*TEXTS))
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def fails(number: int, _: str) -> BaseException | None:
        if number < operation:
            return None
        loop.call_soon_threadsafe(ended.set)
        return KilledError()

    watched, asks = BatchStore(whole, 30), {ENDPOINT: Answering()}
    ending = Runner(BatchStore(Failing(path, fails), 30), asks, concurrent=4, most_requests=100)
    task = asyncio.create_task(ending.run())
    await until(lambda: ended.is_set() or watched.state(batch.id).status == "completed")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    kept = {
        int(text.split(b" ", 2)[1])
        for name in watched.parts(batch.id)
        for text in watched.lines(name)
    }
    was_finished = watched.state(batch.id).status in {"finalizing", "completed"}
    async with running(whole, second) as api:
        await settled(api, batch.id)
    again = {1 + TEXTS.index(text) for text in second.asked}
    assert not again & kept
    assert not (was_finished and again)
    return ended.is_set()


async def test_batches_that_other_gateways_ended_keep_no_place_from_those_that_wait(
    store: Store,
) -> None:
    async with running(store) as api:
        api.answering.hold.clear()
        batches = [await api.create(lines("one")) for _ in range(runner.AT_ONCE)]
        for each in batches:
            await until(lambda each=each: api.store.state(each.id).status == "in_progress")  # type: ignore[misc]
            api.store.set_state(each.id, replace(api.store.state(each.id), status="completed"))
        api.answering.hold.set()
        assert (await api.ended((await api.create(lines("two"))).id)).status == "completed"
        assert all(api.store.state(each.id).completed == 0 for each in batches)


@pytest.mark.slow
async def test_an_end_at_any_operation_on_files_loses_no_line_and_repeats_none_that_was_kept(
    tmp_path: Path,
) -> None:
    at = 0
    while await ended_at(at, tmp_path / str(at)):
        at += 1
    assert at > 15


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
async def test_a_store_without_room_delays_batches_and_no_line_is_asked_twice(
    code: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PAUSE_S", 0.01)
    rng, answering = Random(code), Answering()
    whole = LocalStore(path, alone=False)
    async with running(whole, runs=False) as api:
        batch = await api.create(lines(*TEXTS))

    def fails(number: int, name: str) -> BaseException | None:
        bad = "parts/" in name or ("states/" in name and number > 8)
        return OSError(code, "no room") if bad and number < 60 and rng.random() < 0.7 else None

    async with running(Failing(path, fails), answering) as api:
        await settled(api, batch.id)
    assert set(answering.asked.values()) == {1}


@pytest.mark.slow
async def test_a_store_that_can_not_be_written_is_reported_to_callers(path: Path) -> None:
    whole = LocalStore(path, alone=False)
    async with running(whole, runs=False) as api:
        batch = await api.create(lines("a"))
    failing = Failing(
        path, lambda _, name: OSError(errno.ENOSPC, "No space left") if name else None
    )
    async with running(failing, runs=False) as api:
        assert (await api.client.batches.retrieve(batch.id)).status == "validating"
        for refused in (
            api.upload(b"x"),
            api.client.batches.cancel(batch.id),
            api.client.batches.create(
                input_file_id=batch.input_file_id, endpoint=ENDPOINT, completion_window="24h"
            ),
        ):
            with pytest.raises(openai.InternalServerError, match="No space left") as caught:
                await refused
            assert caught.value.status_code == 503


@pytest.mark.slow
async def test_batches_that_can_not_go_on_keep_no_others_waiting(path: Path) -> None:
    whole = LocalStore(path, alone=False)
    async with running(whole, runs=False) as api:
        stuck = [await api.create(lines("a")) for _ in range(runner.AT_ONCE + 1)]
        good = await api.create(lines("b"))

    def fails(_: int, name: str) -> BaseException | None:
        return OSError(errno.EIO, "bad") if any(each.id in name for each in stuck) else None

    async with running(Failing(path, fails)) as api:
        assert (await api.ended(good.id)).status == "completed"


@pytest.mark.slow
async def test_two_runners_at_one_store_lose_no_line(path: Path) -> None:
    one, two = Answering(), Answering()
    async with running(LocalStore(path, alone=False), one) as api:
        batch = await api.create(lines(*TEXTS))
        async with running(LocalStore(path, alone=False), two):
            await settled(api, batch.id)


@pytest.mark.slow
async def test_what_killed_uploads_left_is_removed_the_second_time(path: Path) -> None:
    store = LocalStore(path, alone=False)
    async with running(store, runs=False) as api:
        kept = await api.upload(b"x")
        store.write("files/file-0.data", [b"of nothing"])
        left = path / "files" / ".file-1.data.0123abcd.tmp"
        left.write_bytes(b"half")
        fresh = left.with_name(".file-2.data.4567abcd.tmp")
        fresh.write_bytes(b"half")
        os.utime(left, (0, 0))
        api.store.remove_expired()
        assert "file-0.data" in store.names("files")
        api.store.remove_expired()
        assert store.names("files") == sorted([f"{kept}.data", f"{kept}.json"])
        assert fresh.exists()
        assert not left.exists()


@pytest.mark.slow
async def test_inputs_of_batches_that_have_not_ended_are_kept_beyond_their_days(
    path: Path,
) -> None:
    now = [1_000_000.0]
    store = LocalStore(path, alone=False)
    async with running(store, clock=lambda: now[0], runs=False) as api:
        now[0] += 30 * 86_400 - 10
        batch = await api.create(lines("a"))
        name = f"{batch.input_file_id}.data"
        now[0] += 30 * 86_400
        api.store.remove_expired()
        assert name in store.names("files")
    async with running(store, clock=lambda: now[0]) as api:
        assert (await api.ended(batch.id)).status == "expired"
        api.store.remove_expired()
        api.store.remove_expired()
        assert name not in store.names("files")
