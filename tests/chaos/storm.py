"""A long run of random faults under a paced load, and what became of every text.

    python -m tests.chaos.storm --minutes 60 --texts 1000000 -o report.json

Four replica processes are killed, stopped, hung behind a living HTTP server and made to lie; the
Redis that their gateway shares vectors through is killed and stopped; clients leave in the middle.
Every vector is compared with the one right vector of its text.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from tests.chaos.faults import ALL
from tests.chaos.fleet import ChaosFleet, ChaosReplica, chaos_fleet
from tests.chaos.reckoning import ROOM, Asker, session_without_limits
from tests.ports import free_port

CONFIG = """\
[admin]
port = 0
[gateway]
request_timeout_s = 60
[fleet]
probe_interval_s = 0.5
probe_timeout_s = 1
connect_timeout_s = 1
[cache]
memory_mib = 8
redis_url = "redis://127.0.0.1:{port}/0"
"""
REPLICAS = 4
KNOWN_TEXTS = 500
"""Texts that are asked for again and again, so that caches and single-flight take part."""
KNOWN_SHARE = 0.1
LEAVING_SHARE = 0.01
"""Requests whose client disconnects before the answer."""
HANG_S = 20.0
"""How long an engine hangs, if its process does not end before."""
EVERY_S = 6.0
"""Mean time from one fault to the next."""
INTERACTIVE_CLIENTS = 4
BULK_CLIENTS = 8


def new_text(dice: random.Random) -> list[int]:
    """Token ids that were never asked for before, but by a chance of one in 10**10."""
    length = dice.choice((5, 6, 8, 10, 20, 40)) if dice.random() < 0.99 else 400
    return [dice.randrange(ROOM, 660) for _ in range(length)]


@dataclass
class Report:
    """What is written down of a run."""

    minutes: float = 0.0
    asked: int = 0
    distinct: int = 0
    """Different texts among them."""
    computed: int = 0
    """Texts that engines computed, those of killed processes included."""
    right: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Texts in requests that got an explicit error, by its code."""
    left: int = 0
    """Texts in requests whose client disconnected."""
    wrong: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    calm_ms: dict[str, float] = field(default_factory=dict)
    """Latency of single interactive texts before the first fault: p50 and p99."""
    storm_ms: dict[str, float] = field(default_factory=dict)
    out_of_traffic_s: list[float] = field(default_factory=list)
    """From the begin of each hang of a replica that was ready, until it was not any more."""
    stayed: int = 0
    """Hangs of ready replicas that ended before, though their process lived."""
    memory_mib: list[float] = field(default_factory=list)
    """Of the gateway, sampled evenly over the run."""
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    recovered_s: float = 0.0
    """From the last fault until every replica was ready."""

    @property
    def computed_per_text(self) -> float:
        return self.computed / max(1, self.distinct)


@dataclass
class Redis:
    """A real server that dies and stops on command."""

    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ("--port", str(self.port), "--save", "", "--bind", "127.0.0.1")
        limits = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
        self.process = subprocess.Popen(
            ["redis-server", *words, *limits],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class Storm:
    """Load, faults and samples of one run."""

    def __init__(self, fleet: ChaosFleet, redis: Redis | None, *, seed: int) -> None:
        self._fleet = fleet
        self._redis = redis
        self._dice = random.Random(seed)
        known = random.Random(seed + 1)
        self._known = [new_text(known) for _ in range(KNOWN_TEXTS)]
        self._asker = Asker(fleet.service.base_url, seed)
        self._calm: list[float] = []
        self._stormy: list[float] = []
        self._raging = False
        self._distinct = 0
        self._faults: Counter[str] = Counter()
        self.report = Report()

    async def run(self, texts: int, seconds: float) -> Report:
        """Ask for `texts` texts over so many seconds; the first tenth of them in calm."""
        began = time.monotonic()
        samples = asyncio.create_task(self._sample(seconds / 60))
        async with session_without_limits() as session:
            load = [
                asyncio.create_task(self._bulk(session, texts / seconds, began + seconds))
                for _ in range(BULK_CLIENTS)
            ]
            load += [
                asyncio.create_task(self._interactive(session, began + seconds))
                for _ in range(INTERACTIVE_CLIENTS)
            ]
            await asyncio.sleep(seconds / 10)
            self._raging = True
            # Load goes on for as long as the last hang, which is noticed by texts alone.
            await self._rage(began + seconds - HANG_S - 5)
            await asyncio.gather(*load)
            missing = texts - self._asker.reckoning.asked
            if missing > 0:  # the pace was not quite kept
                await self._asker.ask_many(missing, clients=BULK_CLIENTS)
                self._distinct += missing
        await self._recover()
        samples.cancel()
        return self._reckoned(time.monotonic() - began)

    async def _bulk(self, session: aiohttp.ClientSession, per_s: float, until: float) -> None:
        """One client of many: requests of up to 60 texts at its share of the pace."""
        share = per_s / BULK_CLIENTS
        due = time.monotonic()
        while (now := time.monotonic()) < until:
            if now < due:
                await asyncio.sleep(due - now)
            texts = [self._text() for _ in range(self._dice.randint(1, 60))]
            due = max(due + len(texts) / share, now - 30)
            if self._dice.random() < LEAVING_SHARE:
                await self._leave(session, texts)
            else:
                await self._asker.ask(session, texts)

    async def _leave(self, session: aiohttp.ClientSession, texts: list[list[int]]) -> None:
        """Ask, and disconnect before the answer can have come."""
        asking = asyncio.create_task(self._asker.ask(session, texts))
        await asyncio.sleep(self._dice.uniform(0, 0.01))
        if not asking.done():
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            self._asker.reckoning.asked -= len(texts)
            self.report.left += len(texts)

    async def _interactive(self, session: aiohttp.ClientSession, until: float) -> None:
        """Somebody who asks one question after the other, and measures."""
        while time.monotonic() < until:
            began = time.monotonic()
            self._distinct += 1
            raging = self._raging
            if not await self._asker.ask(session, [new_text(self._dice)], lane=""):
                (self._stormy if raging else self._calm).append(time.monotonic() - began)
            await asyncio.sleep(self._dice.uniform(0.05, 0.3))

    def _text(self) -> list[int]:
        if self._dice.random() < KNOWN_SHARE:
            return self._dice.choice(self._known)
        self._distinct += 1
        return new_text(self._dice)

    # -- faults ------------------------------------------------------------------------

    async def _rage(self, until: float) -> None:
        """One fault after the other, each kind as often as the others; those that last go on beside
        the next ones.
        """
        kinds = ("kill", "kill", "freeze", "hang", "lie", "redis_kill", "redis_stop")
        lasting: set[asyncio.Task[None]] = set()
        deck: list[str] = []
        while True:
            await asyncio.sleep(self._dice.expovariate(1 / EVERY_S))
            if time.monotonic() > until:
                break
            deck = deck or self._dice.sample(kinds, len(kinds))
            kind = deck.pop()
            self._faults[kind] += 1
            task = asyncio.create_task(getattr(self, f"_{kind}")())
            lasting.add(task)
            task.add_done_callback(lasting.discard)
        await asyncio.gather(*lasting)

    def _one(self) -> ChaosReplica:
        return self._dice.choice(self._fleet.replicas)

    async def _kill(self) -> None:
        self._one().kill()

    async def _freeze(self) -> None:
        self._one().freeze()

    async def _lie(self) -> None:
        replica = self._one()
        await asyncio.to_thread(replica.misbehave, 0.05, *ALL)
        await asyncio.sleep(5)
        await asyncio.to_thread(replica.misbehave, 0)

    async def _hang(self) -> None:
        replica = self._one()
        in_traffic, serving = await self._state(replica) == "ready", replica.serving
        hangs = await asyncio.to_thread(replica.hang, HANG_S)
        in_traffic, began = in_traffic and hangs, time.monotonic()
        while in_traffic and time.monotonic() < began + HANG_S:
            if await self._state(replica) != "ready":
                self.report.out_of_traffic_s.append(round(time.monotonic() - began, 2))
                return
            await asyncio.sleep(0.1)
        if in_traffic and serving is not None and replica.serving == serving:
            self.report.stayed += 1  # not one that another fault has killed, which ended the hang

    async def _state(self, replica: ChaosReplica) -> str:
        """What the gateway says of it."""
        states = await asyncio.to_thread(self._fleet.service.fleet)
        return str(next(each["state"] for each in states if each["url"] == replica.url))

    async def _redis_kill(self) -> None:
        if self._redis is not None and self._redis.process is not None:
            self._redis.kill()
            await asyncio.sleep(self._dice.uniform(0.5, 4))
            self._redis.start()

    async def _redis_stop(self) -> None:
        if self._redis is not None:
            self._redis.signal(signal.SIGSTOP)
            await asyncio.sleep(2)
            self._redis.signal(signal.SIGCONT)

    async def _recover(self) -> None:
        began = time.monotonic()
        wait = self._fleet.service.wait_for
        await asyncio.to_thread(wait, ["ready"] * len(self._fleet.replicas), 400)
        self.report.recovered_s = round(time.monotonic() - began, 1)

    # -- the report --------------------------------------------------------------------

    async def _sample(self, every_s: float) -> None:
        gateway = psutil.Process(self._fleet.service.process.pid)
        while True:
            await asyncio.sleep(every_s)
            self.report.memory_mib.append(round(gateway.memory_info().rss / 2**20, 1))
            self.report.descriptors.append(gateway.num_fds())
            self.report.threads.append(gateway.num_threads())

    def _reckoned(self, seconds: float) -> Report:
        report, reckoning = self.report, self._asker.reckoning
        report.minutes = round(seconds / 60, 1)
        report.asked, report.right = reckoning.asked, reckoning.right
        report.distinct = self._distinct + KNOWN_TEXTS
        report.computed = sum(replica.computed for replica in self._fleet.replicas)
        report.refused, report.wrong = dict(reckoning.refused), reckoning.wrong
        report.faults = dict(self._faults)
        report.calm_ms, report.storm_ms = percentiles(self._calm), percentiles(self._stormy)
        return report


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if not seconds:
        return {}
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "requests": len(seconds)}


@contextlib.contextmanager
def _redis() -> Iterator[Redis | None]:
    if shutil.which("redis-server") is None:
        sys.stderr.write("redis-server is not installed: the run goes without it\n")
        yield None
        return
    redis = Redis()
    redis.start()
    try:
        yield redis
    finally:
        redis.kill()


def storm(scratch: Path, *, texts: int, minutes: float, seed: int = 7) -> Report:
    """Run one, with processes of its own."""
    with _redis() as redis:
        config = CONFIG.format(port=redis.port if redis else 1)
        with chaos_fleet(scratch, replicas=REPLICAS, config=config) as fleet:
            running = Storm(fleet, redis, seed=seed)
            return asyncio.run(running.run(texts, minutes * 60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    with tempfile.TemporaryDirectory() as scratch:
        report = storm(Path(scratch), texts=given.texts, minutes=given.minutes, seed=given.seed)
        shown = asdict(report) | {"computed_per_text": round(report.computed_per_text, 4)}
        given.output.write_text(json.dumps(shown, indent=1) + "\n")
        sys.stdout.write(json.dumps(shown) + "\n")


if __name__ == "__main__":
    main()
