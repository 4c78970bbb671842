from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from fsspec import AbstractFileSystem
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedfleet.bulk.columns import Columns
from embedfleet.bulk.duplicates import duplicates_in
from embedfleet.bulk.errors import BulkError
from embedfleet.bulk.fragments import hash_of
from embedfleet.bulk.reading import rows_of
from embedfleet.bulk.sources import found
from embedfleet.client import Embedded, EmbedOptions
from embedfleet.runtime.folders import LocalStore, Store, StoreError, store_at
from tests.bulk.making import RevealingClient, job, json_lines, tree


@pytest.fixture(params=["here", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    address = str(tmp_path / "out") if request.param == "here" else f"memory://{uuid4()}"
    found = store_at(address)
    yield found
    found.close()


def test_a_store_keeps_files_by_their_names(store: Store) -> None:
    assert store.names() == store.names("sub") == []
    assert store.size("a") is None
    with pytest.raises(FileNotFoundError):
        store.read("a")
    written = store.write("a", [b"one", memoryview(b"two")])
    assert written.bytes == store.size("a") == 6
    store.write("sub/b", [])
    store.write("a", [b"new"])
    assert store.read("a") == b"new"
    assert store.names() == ["a"]
    assert store.names("sub") == ["b"]
    store.remove("a")
    store.remove("a")
    assert store.names() == []


def test_what_an_end_left_half_written_is_removed_and_nobody_else_s_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".a.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / ".vimrc.tmp").write_bytes(b"of somebody")
    store = LocalStore(tmp_path)
    store.remove_temporary()
    store.close()
    assert tree(tmp_path) == {".vimrc.tmp": b"of somebody"}


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    LocalStore(tmp_path / "a" / "b").close()
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    LocalStore(tmp_path / "a" / "b").close()
    assert (tmp_path / "a").exists()
    store = LocalStore(tmp_path / "a" / "b")
    store.write("x", [])
    store.close()
    LocalStore(tmp_path / "a" / "b").close()
    assert (tmp_path / "a" / "b" / "x").exists()


@pytest.mark.parametrize("kind", ["here", "local", "memory"])
def test_files_that_are_written_at_once_are_whole_and_what_fails_is_not_there(
    kind: str, tmp_path: Path
) -> None:
    address = {
        "here": str(tmp_path),
        "local": f"local://{tmp_path}",
        "memory": f"memory://{uuid4()}",
    }
    store = store_at(address[kind], alone=False)

    def write(number: int) -> None:
        def parts() -> Iterator[bytes]:
            yield f"{number}".encode() * 1000
            if number % 3 == 0 and kind != "memory":  # which shows files while they are written
                raise OSError(errno.EIO, "the source failed")
            yield b"end"

        with contextlib.suppress(OSError):
            store.write(f"{number:03d}", parts())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(120)))
    assert store.names() == [f"{n:03d}" for n in range(120) if n % 3 or kind == "memory"]
    for name in store.names():
        assert store.read(name) == f"{int(name)}".encode() * 1000 + b"end"


def test_a_place_that_can_not_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="can't be written"):
        store_at(str(tmp_path / "file" / "out"))
    with pytest.raises(StoreError, match="can't be written"):
        store_at("nonsense://x")


async def test_an_output_elsewhere_is_gone_on_with_too(tmp_path: Path) -> None:
    address, scratch = f"memory://{uuid4()}", tmp_path / "scratch"
    source = json_lines(tmp_path / "in.jsonl", [{"text": f"{n}"} for n in range(30)])
    client = RevealingClient()
    for _ in range(2):
        from embedfleet.bulk.running import run  # noqa: PLC0415

        await run(job(source), client, store_at(address), scratch)  # type: ignore[arg-type]
    assert set(client.computed.values()) == {1}
    assert len(store_at(address).names()) == 2 * 8 + 1
    assert tree(scratch) == {}


@given(st.lists(st.integers(0, 60), max_size=200))
def test_texts_that_come_more_than_once_are_known(numbers: list[int]) -> None:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hashes"
        path.write_bytes(b"".join(hash_of(f"{n}") for n in numbers))
        repeats = duplicates_in(path)
    assert repeats.distinct == len(set(numbers))
    expected = [numbers.count(number) > 1 for number in range(61)]
    assert repeats.among([hash_of(f"{number}") for number in range(61)]) == expected


def test_more_hashes_than_are_sorted_at_once_are_looked_at_in_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedfleet.bulk.duplicates.ROWS_AT_ONCE", 100)
    keys = [hash_of(f"{n}") for n in range(1000)]
    (tmp_path / "hashes").write_bytes(b"".join(keys + keys[:300]))
    repeats = duplicates_in(tmp_path / "hashes")
    assert repeats.distinct == 1000
    assert repeats.among(keys) == [True] * 300 + [False] * 700


def test_equal_texts_of_two_fragments_at_once_are_asked_for_once() -> None:
    from embedfleet.bulk.computing import Computing  # noqa: PLC0415

    async def check() -> None:
        client = RevealingClient(["refused"])
        computing = Computing(client, EmbedOptions(), np.dtype(np.float32), 16)
        texts = ["a", "b", "refused", "a"]
        hashes = [hash_of(text) for text in texts]
        one, two = await asyncio.gather(
            computing.compute(texts, hashes, {}),
            computing.compute(texts[::-1], hashes[::-1], {}),
        )
        assert client.computed == {"a": 1, "b": 1}
        assert np.array_equal(one.vectors, two.vectors[::-1])
        assert set(one.faults) == {2}
        assert set(two.faults) == {1}

    asyncio.run(check())


class _OneAfterTheOther(RevealingClient):
    """Gives the event loop turns between two answers."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns
        self.answers = 0

    async def embed_each(
        self,
        texts: Sequence[str],
        options: EmbedOptions | None = None,
        *,
        progress: Any = None,
        arrived: Callable[[Sequence[int], NDArray[Any]], None] | None = None,
    ) -> Embedded:
        assert arrived is not None
        for _ in texts:
            self.answers += 1
            arrived([0], np.ones((1, 16), np.float32))
            for _ in range(self.turns):
                await asyncio.sleep(0)
        return await super().embed_each(texts, options, progress=progress)


class _AtOnce(Executor):
    """Its work has ended when it was taken."""

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*given, **named))
        except BulkError as error:
            done.set_exception(error)
        return done


@pytest.mark.parametrize(("turns", "answers"), [(0, 100), (5, 2)])
def test_a_full_disk_ends_the_computing_and_is_reported_once(
    caplog: pytest.LogCaptureFixture, turns: int, answers: int
) -> None:
    """Also where several writes are under way when the first one fails."""
    from embedfleet.bulk.computing import Computing  # noqa: PLC0415

    def put(_hashes: Sequence[bytes], _vectors: NDArray[Any]) -> None:
        raise BulkError("No space left on device")

    client, texts = _OneAfterTheOther(turns), [f"text {n}" for n in range(100)]
    computing = Computing(client, EmbedOptions(), np.dtype(np.float32), 16, disk=_AtOnce())
    with pytest.raises(BulkError, match="No space left"):
        asyncio.run(computing.compute(texts, [hash_of(text) for text in texts], {}, put))
    gc.collect()
    assert caplog.text == ""
    assert client.answers == answers


class _CloudError(Exception):
    """What the library beneath a driver raises; no OSError, as those of botocore or aiohttp."""


class FailingDriver(AbstractFileSystem):  # type: ignore[misc]
    """A driver of fsspec that knows two files and fails as the address says."""

    protocol = "failing"
    cachable = False

    def _expect(self, path: str, what: str) -> None:
        if what in path:
            raise _CloudError(f"An error occurred (403):\n  {what} was denied")

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:  # noqa: FBT002
        self._expect(path, "listing")
        found = [{"name": f"{path}/in.jsonl", "type": "file", "size": 20}]
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> Any:
        self._expect(path, "listing")
        kind = "file" if path.endswith((".jsonl", ".gz")) else "directory"
        return {"name": path, "type": kind, "size": 20}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT002
        self._expect(path, "writing")

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        self._expect(path, "opening")
        driver = self

        class _File(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                driver._expect(path, "reading")
                return super().read(size)

        return _File(b'{"text":"a"}\n')


fsspec.register_implementation("failing", FailingDriver, clobber=True)


@pytest.mark.parametrize("what", ["listing", "opening", "reading"])
@pytest.mark.parametrize("name", ["", "/in.jsonl", "/in.jsonl.gz"])
def test_any_error_of_a_driver_while_reading_is_reported_in_one_line(what: str, name: str) -> None:
    def read() -> None:
        for source in found([f"failing://bucket/{what}{name}"]):
            list(rows_of(source, Columns()))

    with pytest.raises(BulkError) as told:
        read()
    assert f"{what} was denied" in str(told.value)
    assert "\n" not in str(told.value)


def test_any_error_of_a_driver_while_writing_is_reported_in_one_line() -> None:
    with pytest.raises(StoreError, match=r"^failing://writing can't be written: .*was denied$"):
        store_at("failing://writing")
    opening: tuple[Callable[[Store], object], ...] = (
        lambda store: store.read("a"),
        lambda store: store.open("a"),
        lambda store: store.write("a", []),
    )
    for operation in opening:
        with pytest.raises(OSError, match="opening was denied"):
            operation(store_at("failing://opening"))
    for operation in (lambda store: store.size("a"), lambda store: store.names()):
        with pytest.raises(OSError, match="listing was denied"):
            operation(store_at("failing://listing"))
    with store_at("failing://bucket").open("in.jsonl") as file:
        assert file.read() == b'{"text":"a"}\n'
