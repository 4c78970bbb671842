"""The settings of replica processes on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedfleet.fleet.providers.local import (
    LocalReplica,
    announced,
    keyed,
    placed,
    replica_settings,
)
from embedfleet.runtime.machine import usable_processors
from embedfleet.runtime.settings import AutoscalingSettings, EngineSettings, Pool, Settings
from embedfleet.transport.description import ANNOUNCEMENT

POOL = Pool(model="a", replicas=2)


def threads(settings: Settings) -> int | None:
    return replica_settings(settings, POOL, Path("/m"), ("a",)).engine.threads


@pytest.mark.parametrize("replicas", [1, 2, 64])
def test_the_processors_are_divided_among_the_replicas(replicas: int) -> None:
    """At least one thread each."""
    settings = Settings(pools=(replace(POOL, replicas=replicas),))
    assert threads(settings) == max(1, usable_processors() // replicas)


def test_where_load_decides_they_are_divided_among_the_most_there_may_be() -> None:
    """What one replica can do must not fall when another joins."""
    scaled = AutoscalingSettings(enabled=True, min_replicas=1, max_replicas=2)
    assert threads(Settings(pools=(POOL,), autoscaling=scaled)) == max(1, usable_processors() // 2)
    elsewhere = Pool(replicas=0, replica_urls=("http://b",))
    both = Settings(pools=(POOL, elsewhere), autoscaling=scaled)
    assert threads(both) == max(1, usable_processors() // 2)


def test_a_number_of_threads_that_is_set_holds() -> None:
    """Whoever sets it knows why."""
    settings = Settings(pools=(POOL,), engine=EngineSettings(threads=5))
    assert threads(settings) == 5


def test_each_replica_knows_which_one_it_is() -> None:
    """By its name; where there are GPUs it takes the one of that number."""
    settings = Settings(pools=(POOL,))
    assert placed(settings, "local-0") == settings
    assert placed(settings, "local-3").replica.place == 3


def test_replicas_of_all_pools_are_counted_where_gpus_are_given_out() -> None:
    """The n-th of all takes the n-th GPU: two models need not share one while another idles."""
    pools = (replace(POOL, replicas=2), Pool(model="b", replicas=1), Pool(model="c", replicas=3))
    settings = Settings(pools=pools)

    def before(settings: Settings) -> list[int]:
        return [
            replica_settings(settings, pool, Path("/m"), ("a",)).replica.places_before
            for pool in settings.pools
        ]

    assert before(settings) == [0, 2, 3]
    scaled = AutoscalingSettings(enabled=True, min_replicas=1, max_replicas=4)
    assert before(replace(settings, autoscaling=scaled)) == [0, 4, 8]


class Ending:
    """A process that ends when it is told here."""

    pid = 2**22 + 1  # there is none
    stdin = None

    def __init__(self) -> None:
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def terminate(self) -> None:
        pass

    async def wait(self) -> int:
        return await self.code


async def test_who_stops_a_replica_can_be_cancelled_in_the_moment_in_which_it_ends() -> None:
    """Python 3.11's wait_for forgets the cancellation then."""
    process: Any = Ending()
    stopping = asyncio.create_task(LocalReplica(process, "http://a").stop(9.0))
    await asyncio.sleep(0.01)
    process.code.set_result(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


async def test_an_address_is_found_behind_what_others_print_before_it() -> None:
    """A `sitecustomize` of the machine may greet every interpreter."""
    output = asyncio.StreamReader()
    output.feed_data(b"hello\n\n\xff\n" + f"{ANNOUNCEMENT}http://127.0.0.1:1\nmore\n".encode())
    assert await announced(output) == "http://127.0.0.1:1"


@pytest.mark.parametrize("said", [b"", b"hello\n", b"no end"])
async def test_a_replica_that_ends_before_it_says_one_has_none(said: bytes) -> None:
    output = asyncio.StreamReader()
    output.feed_data(said)
    output.feed_eof()
    assert await announced(output) == ""


async def test_lines_longer_than_the_buffer_come_before_an_address_too() -> None:
    output = asyncio.StreamReader(limit=64)
    output.feed_data(b"x" * 1000 + b"\n" + f"{ANNOUNCEMENT}http://127.0.0.1:1\n".encode())
    output.feed_eof()
    assert await announced(output) == "http://127.0.0.1:1"


def test_local_replicas_ask_for_a_key_of_this_start_that_only_its_user_can_read() -> None:
    with keyed(Settings(pools=(POOL,))) as found:
        path = found.pools[0].replica_key_file
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(path.read_text()) >= 43
        assert replica_settings(found, found.pools[0], Path("/m"), ("a",)).replica.key_file == path
    assert not path.exists()


def test_the_key_of_this_start_is_sent_to_no_replica_elsewhere() -> None:
    pool = dataclasses.replace(POOL, replica_urls=("http://a:1",))
    with keyed(Settings(pools=(pool,))) as found:
        assert found.pools == (pool,)
