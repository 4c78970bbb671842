"""A replica process that is told to stop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from embedfleet.server.gateway.replicas.upstream import Upstream
from embedfleet.transport.frames import CallText, encoding_bytes
from embedfleet.vocabulary import DrainingError, ReplicaLostError
from tests.checkpoints import SMALL, random_weights, write_checkpoint
from tests.fakes.taking import frames_of
from tests.small_tokenizer import write_model

LONG = 1000
"""Texts of the call that is being computed: seconds of work on any processor."""


@asynccontextmanager
async def replica(directory: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], str, Upstream]]:
    """`embedfleet replica` with small random weights, once it describes itself."""
    model = directory / "model"
    model.mkdir()
    write_model(model)
    write_checkpoint(model, random_weights(SMALL), SMALL)
    process = subprocess.Popen(  # noqa: ASYNC220  nothing else runs yet
        [sys.executable, "-m", "embedfleet", "replica", str(model)], stdout=subprocess.PIPE
    )
    upstream = Upstream.open(connect_timeout_s=30, probe_timeout_s=30)
    try:
        assert process.stdout is not None
        url = (await asyncio.to_thread(process.stdout.readline)).decode().split()[-1]
        async with asyncio.timeout(120):
            while not await answers(upstream, url):
                await asyncio.sleep(0.1)
        yield process, url, upstream
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        upstream.close()


async def answers(upstream: Upstream, url: str) -> bool:
    try:
        await upstream.describe(url)
    except DrainingError:
        return False  # it listens, and loads its model
    return True


def texts(count: int, tokens: int) -> list[CallText]:
    rng = np.random.default_rng(0)
    drawn = rng.integers(10, 400, (count, tokens)).astype(np.int32)
    return [CallText(n, encoding_bytes(ids), False, 0) for n, ids in enumerate(drawn)]


@pytest.mark.slow
async def test_a_replica_finishes_what_it_has_refuses_what_is_new_and_exits_with_0(
    tmp_path: Path,
) -> None:
    """SIGTERM, as a supervisor or Kubernetes sends it."""
    async with replica(tmp_path) as (process, url, upstream):

        async def compute() -> list[int]:
            taken = await frames_of(upstream, url, "long", texts(LONG, 200))
            return [text_id for frame in taken for text_id in frame.ids]

        computing = asyncio.create_task(compute())
        async with asyncio.timeout(120):
            while (await upstream.describe(url)).oldest_batch_s is None:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            while not (await upstream.describe(url)).draining:
                await asyncio.sleep(0.01)
        refusals = 0
        while not computing.done():
            try:
                await frames_of(upstream, url, "new", texts(1, 5))
                pytest.fail("it took new work while it drained")
            except DrainingError:
                refusals += 1
            except ReplicaLostError:
                break  # it had nothing left and is gone
            await asyncio.sleep(0.05)

        assert sorted(await computing) == list(range(LONG))
        assert refusals > 0
        assert await asyncio.to_thread(process.wait, 120) == 0
