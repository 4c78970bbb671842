"""Lists read page by page while things come and go, and how much one key may keep."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import openai
import pytest

from embedfleet.api.batches.documents import Batch, State
from embedfleet.api.batches.store import BatchStore, given_at
from embedfleet.runtime.folders import LocalStore, Store, store_at
from embedfleet.vocabulary import RateLimitedError
from tests.api.batches.test_batches import ENDPOINT, ROOM, Answering, lines, running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "shelf", alone=False)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_deleting_every_file_of_a_list_deletes_all_files(
    store: Store, order: Literal["asc", "desc"], limit: int
) -> None:
    now = [1_000_000.0]
    async with running(store, clock=lambda: now[0], runs=False) as api:
        for each in range(7):
            await api.upload(b"x")
            now[0] += each % 2  # some in the same second
        async for file in await api.client.files.list(order=order, limit=limit):
            await api.client.files.delete(file.id)
        assert store.names("files") == []


@pytest.mark.parametrize("seed", range(10))
async def test_what_stays_is_listed_once_whatever_else_is_deleted_or_comes(
    store: Store, seed: int
) -> None:
    rng, now = Random(seed), [1_000_000.0]
    async with running(store, clock=lambda: now[0], runs=False) as api:
        there = []
        for _ in range(12):
            there.append(await api.upload(b"x"))
            now[0] += rng.choice([0, 0, 1])
        stays = set(there[::3])
        order: Literal["asc", "desc"] = rng.choice(["asc", "desc"])
        listed = []
        async for file in await api.client.files.list(order=order, limit=rng.randint(1, 3)):
            listed.append(file.id)
            for each in rng.sample(there, 2):
                if each not in stays:
                    there.remove(each)
                    await api.client.files.delete(each)
            if len(listed) == 2:
                now[0] += 1
                await api.upload(b"new")
        assert len(set(listed)) == len(listed)
        places = [each for each in listed if each in stays]
        assert set(places) == stays
        whole = [each.id async for each in await api.client.files.list(order=order)]
        assert places == [each for each in whole if each in stays]


async def test_batches_that_are_removed_between_pages_lose_no_others(store: Store) -> None:
    async with running(store, runs=False) as api:
        made = [await api.create(lines("a")) for _ in range(4)]
        first = await api.client.batches.list(limit=2)
        store.remove(f"batches/{first.data[-1].id}.json")
        rest = await first.get_next_page()
        assert {each.id for each in (*first.data, *rest.data)} == {each.id for each in made}
        # Files of one purpose, behind one of another.
        other = await api.client.files.create(file=("x", b"x"), purpose="user_data")
        page = await api.client.files.list(purpose="batch", after=other.id, order="desc")
        assert len(page.data) <= 4
        for after in ("file-" + "0" * 24, "nonsense", "file-tx", "", "9" * 5000):
            if after:
                with pytest.raises(openai.BadRequestError, match="not in this list"):
                    await api.client.files.list(after=after)


async def test_outputs_are_in_lists_where_their_names_say(store: Store) -> None:
    now = [1_000_000.0]
    answering = Answering()
    answering.hold.clear()
    async with running(store, answering, clock=lambda: now[0]) as api:
        batch = await api.create(lines("a"))
        now[0] += 100
        answering.hold.set()
        done = await api.ended(batch.id)
        output = await api.client.files.retrieve(done.output_file_id)
        assert given_at(output.id) == output.created_at == done.finalizing_at
        async for file in await api.client.files.list(limit=1):
            await api.client.files.delete(file.id)
        assert [each async for each in await api.client.files.list()] == []


async def test_a_key_has_no_more_files_than_it_may(store: Store) -> None:
    async with running(store, quota=replace(ROOM, files=3)) as api:
        done = await api.ended((await api.create(lines("a"))).id)
        last = await api.upload(lines("b"))
        with pytest.raises(openai.BadRequestError, match=r"batches\.max_files") as caught:
            await api.upload(b"x")
        assert caught.value.code == "storage_full"
        with pytest.raises(openai.BadRequestError, match=r"batches\.max_files"):
            await api.client.batches.create(
                input_file_id=last, endpoint=ENDPOINT, completion_window="24h"
            )
        assert len(store.names("files")) == 6
        await api.client.files.delete(done.output_file_id)
        await api.upload(b"x")


async def test_the_first_batch_that_has_ended_makes_room_for_another(store: Store) -> None:
    answering = Answering()
    async with running(store, answering, quota=replace(ROOM, batches=3)) as api:
        ended = await api.ended((await api.create(lines("a"))).id)
        answering.hold.clear()
        held = [await api.create(lines("x")) for _ in range(3)]
        known = [each.id async for each in await api.client.batches.list()]
        assert sorted(known) == sorted(each.id for each in held)
        with pytest.raises(openai.NotFoundError):
            await api.client.batches.retrieve(ended.id)
        for folder in ("batches/states", "batches/cancelled", f"batches/parts/{ended.id}"):
            assert not [each for each in store.names(folder) if ended.id in each]
        assert len(await api.content(ended.output_file_id)) == 1
        file = await api.upload(lines("x"))
        with pytest.raises(openai.RateLimitError, match=r"batches\.max_batches") as caught:
            await api.client.batches.create(
                input_file_id=file, endpoint=ENDPOINT, completion_window="24h"
            )
        assert int(caught.value.response.headers["retry-after"]) > 0
        answering.hold.set()
        for each in held:
            assert (await api.ended(each.id)).status == "completed"
        await api.ended((await api.create(lines("y"))).id)


@pytest.mark.parametrize("local", [True, False])
def test_batches_created_at_once_are_never_too_many_together(
    tmp_path: Path, *, local: bool
) -> None:
    address = f"{tmp_path}/shelf" if local else f"memory://{tmp_path}"
    gateways = [BatchStore(store_at(address, alone=False), 30) for _ in range(3 if local else 1)]
    together = threading.Barrier(8)

    def create(number: int) -> bool:
        batch_store = gateways[number % len(gateways)]
        now = batch_store.now
        batch = Batch(
            id=batch_store.name("batch", now),
            owner="mine",
            endpoint=ENDPOINT,
            input_file_id="file-x",
            created_at=now,
            expires_at=now + 1,
        )
        together.wait(60)
        try:
            batch_store.add_batch(batch, 3)
        except RateLimitedError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(8))) == 3
    (first, *_), others = gateways[0].batches("mine"), gateways[0].batches("another")
    assert others == []
    gateways[-1].set_state(first.id, State(status="cancelled"))
    together = threading.Barrier(1)
    assert create(0)
    assert not create(1)
    assert len(gateways[0].batches("mine")) == 3
