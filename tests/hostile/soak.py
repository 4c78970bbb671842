"""Hostile and well-behaved clients together, for long: who notices, and what grows.

    python -m tests.hostile.soak --minutes 60 -o report.json

One gateway with keys in front of two replicas whose vectors reveal their texts. The well-behaved
clients must be answered every time, with the right vectors; the process must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from tests.chaos.fleet import ChaosFleet, chaos_fleet
from tests.chaos.reckoning import Asker, session_without_limits
from tests.chaos.storm import new_text, percentiles
from tests.hostile.clients import LARGE, SMALL, Attack, Target

CONFIG = """\
[admin]
port = 0
[access]
keys_file = "{keys}"
[cache]
memory_mib = 8
"""
LIMITS = (
    "--tokens-per-minute",
    "200000",
    "--concurrent-texts",
    "2048",
    "--requests-per-minute",
    "600",
)
"""Of the key that the hostile clients have."""
SMALL_AT_ONCE = 12
LARGE_AT_ONCE = 2
CLIENTS = 4
SETTLE_S = 90.0
"""Clients that go in the middle of a request are given up by limits of time."""


@dataclass
class Report:
    """What is written down of a run."""

    minutes: float = 0.0
    attacks: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    right: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    calm_ms: dict[str, float] = field(default_factory=dict)
    """Latency of well-behaved requests before the first attack: p50 and p99."""
    attacked_ms: dict[str, float] = field(default_factory=dict)
    live_ms: dict[str, float] = field(default_factory=dict)
    """Latency of /health/live while attacked."""
    memory_mib: list[float] = field(default_factory=list)
    most_memory_mib: float = 0.0
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    calm_descriptors: int = 0
    """Before the first attack, the most of them."""
    settled_descriptors: int = 0
    """Once all clients have gone, and what they left was given up."""
    settled_mib: float = 0.0
    answers: bool = False
    """Whether a request was answered rightly after all that."""


class Soak:
    """Both kinds of clients, and samples."""

    def __init__(self, fleet: ChaosFleet, good: str, bad: str, *, seed: int) -> None:
        self._fleet = fleet
        self._dice = random.Random(seed)
        self._asker = Asker(fleet.service.base_url, seed, key=good)
        address = urlsplit(fleet.service.root)
        self._target = Target(address.hostname or "", address.port or 0, bad, self._dice)
        self._attacked = False
        self._seconds: dict[bool, list[float]] = {False: [], True: []}
        self._live: list[float] = []
        self._attacks: Counter[str] = Counter()
        self.report = Report()

    async def run(self, seconds: float) -> Report:
        """The first tenth of the time without attacks, the last twentieth too."""
        began = time.monotonic()
        until = began + seconds
        attacks_end = until - seconds / 20
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample(seconds / 60))
            peak = group.create_task(self._watch_memory())
            good = [group.create_task(self._behave(until)) for _ in range(CLIENTS)]
            live = group.create_task(self._look(until))
            await asyncio.sleep(seconds / 10)
            self.report.calm_descriptors = max(self.report.descriptors)
            self._attacked = True
            attacking = [
                *(
                    group.create_task(self._attack(SMALL, attacks_end))
                    for _ in range(SMALL_AT_ONCE)
                ),
                *(
                    group.create_task(self._attack(LARGE, attacks_end))
                    for _ in range(LARGE_AT_ONCE)
                ),
            ]
            await asyncio.gather(*attacking, *good, live)
            sampling.cancel()
            peak.cancel()
        await self._settle()
        report, reckoning = self.report, self._asker.reckoning
        report.minutes = round((time.monotonic() - began) / 60, 1)
        report.attacks = dict(self._attacks)
        report.asked, report.right = reckoning.asked, reckoning.right
        report.refused, report.wrong = dict(reckoning.refused), reckoning.wrong
        report.calm_ms = percentiles(self._seconds[False])
        report.attacked_ms = percentiles(self._seconds[True])
        report.live_ms = percentiles(self._live)
        return report

    async def _settle(self) -> None:
        """Ask once more, and wait until what clients left is gone."""
        gateway, report = psutil.Process(self._fleet.service.process.pid), self.report
        right = self._asker.reckoning.right
        async with session_without_limits() as session:
            await self._asker.ask(session, [new_text(self._dice)], lane="")
        report.answers = self._asker.reckoning.right == right + 1
        deadline = time.monotonic() + SETTLE_S
        while gateway.num_fds() > report.calm_descriptors and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        report.settled_descriptors = gateway.num_fds()
        report.settled_mib = round(gateway.memory_info().rss / 2**20, 1)

    async def _attack(self, attacks: tuple[Attack, ...], until: float) -> None:
        while time.monotonic() < until:
            attack = self._dice.choice(attacks)
            self._attacks[attack.__name__] += 1
            await attack(self._target)
            await asyncio.sleep(self._dice.uniform(0.05, 0.5))

    async def _behave(self, until: float) -> None:
        async with session_without_limits() as session:
            while time.monotonic() < until:
                texts = [new_text(self._dice) for _ in range(self._dice.choice((1, 1, 1, 16)))]
                began, attacked = time.monotonic(), self._attacked
                await self._asker.ask(session, texts, lane="")
                self._seconds[attacked].append(time.monotonic() - began)
                await asyncio.sleep(self._dice.uniform(0.05, 0.3))

    async def _look(self, until: float) -> None:
        """Ask whether it is alive, as an orchestrator does."""
        url = f"{self._fleet.service.root}/health/live"
        async with session_without_limits() as session:
            while time.monotonic() < until:
                began = time.monotonic()
                try:
                    async with session.get(url) as answer:
                        if answer.status != 200:
                            self._asker.reckoning.wrong.append(f"/health/live: {answer.status}")
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._asker.reckoning.wrong.append(f"/health/live: {error!r}")
                if self._attacked:
                    self._live.append(time.monotonic() - began)
                await asyncio.sleep(0.1)

    async def _sample(self, every_s: float) -> None:
        gateway = psutil.Process(self._fleet.service.process.pid)
        while True:
            await asyncio.sleep(every_s)
            self.report.memory_mib.append(round(gateway.memory_info().rss / 2**20, 1))
            self.report.descriptors.append(gateway.num_fds())
            self.report.threads.append(gateway.num_threads())

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.report.most_memory_mib = max(
                self.report.most_memory_mib, round(self._fleet.gateway_mib, 1)
            )


def _key(file: Path, name: str, *limits: str) -> str:
    words = ("keys", "create", "--file", str(file), "--name", name, *limits)
    made = subprocess.run(
        [sys.executable, "-m", "embedfleet", *words], check=True, capture_output=True, text=True
    )
    return made.stdout.strip()


def soak(scratch: Path, *, minutes: float, seed: int = 11) -> Report:
    """Run one, with processes of its own."""
    keys = scratch / "keys.json"
    good, bad = _key(keys, "good"), _key(keys, "bad", *LIMITS)
    with chaos_fleet(scratch, replicas=2, config=CONFIG.format(keys=keys)) as fleet:
        return asyncio.run(Soak(fleet, good, bad, seed=seed).run(minutes * 60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = soak(Path(scratch), minutes=given.minutes, seed=given.seed)
        given.output.write_text(json.dumps(asdict(report), indent=1) + "\n")
        sys.stdout.write(json.dumps(asdict(report)) + "\n")


if __name__ == "__main__":
    main()
