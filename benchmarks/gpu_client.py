"""A closed loop of embeddings requests in processes of their own; `gpu_engine.py` starts them.

    python -m benchmarks.gpu_client '{"url": …, "texts": 64, "tokens": "32", …}' result.json

Token ids in, answers read and not parsed. Each of `connections`
sends its next request when its last is answered. Counted is what is answered with vectors within
the measured seconds, and how many failed; others warm up. Decides nothing about the server.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp


@dataclass(frozen=True, slots=True)
class Load:
    """What one client process sends."""

    url: str
    model: str
    texts: int
    """In one request."""
    tokens: str
    """Of one text; `mixed` is lognormal from 8 to 8,192."""
    connections: int
    seconds: float
    seed: int
    vocabulary: int
    end_of_text: int
    begin_at: float
    """Unix seconds at which counting begins, the same for all processes."""
    distinct: int = 4
    """Bodies per connection; they take turns."""

    def lengths(self, dice: random.Random) -> list[int]:
        if self.tokens == "mixed":
            return [
                min(8192, max(8, int(math.exp(dice.gauss(4.8, 1.0))))) for _ in range(self.texts)
            ]
        return [int(self.tokens)] * self.texts

    def body(self, dice: random.Random) -> tuple[bytes, int]:
        """A request, and its tokens; every text ends with the token that the model wants there."""
        lengths = self.lengths(dice)
        ids = [
            [dice.randrange(1000, self.vocabulary) for _ in range(length - 1)] + [self.end_of_text]
            for length in lengths
        ]
        body = {
            "model": self.model,
            "input": ids[0] if self.texts == 1 else ids,
            "encoding_format": "base64",
        }
        return json.dumps(body).encode(), sum(lengths)


@dataclass(slots=True)
class Seen:
    """What one process measured."""

    latencies_s: list[float]
    tokens: int = 0
    failed: int = 0
    received_bytes: int = 0

    def count(self, status: int, seconds: float, tokens: int, received_bytes: int) -> None:
        """An answer: one that failed has computed nothing, however quickly it came."""
        if status != 200:
            self.failed += 1
            return
        self.latencies_s.append(seconds)
        self.tokens += tokens
        self.received_bytes += received_bytes


async def run(load: Load) -> Seen:
    dice = random.Random(load.seed)
    bodies = [load.body(dice) for _ in range(load.distinct * load.connections)]
    seen = Seen([])
    until = load.begin_at + load.seconds

    async def connection(number: int) -> None:
        turn = number
        while time.time() < until:
            body, tokens = bodies[turn % len(bodies)]
            turn += load.connections
            started = time.perf_counter()
            async with session.post(load.url, data=body, headers=headers) as answer:
                content = await answer.read()
            if load.begin_at <= time.time() < until:
                seconds = time.perf_counter() - started
                seen.count(answer.status, seconds, tokens, len(content))
            if answer.status != 200 and seen.failed < 2:
                print(answer.status, content[:200], file=sys.stderr)

    headers = {"content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*[connection(number) for number in range(load.connections)])
    return seen


def main() -> None:
    """Run the load that the first argument describes; the second names the file for the result."""
    load = Load(**json.loads(sys.argv[1]))
    try:
        import uvloop  # noqa: PLC0415

        seen = uvloop.run(run(load))
    except ImportError:
        seen = asyncio.run(run(load))
    Path(sys.argv[2]).write_text(json.dumps(asdict(seen)), encoding="utf-8")


if __name__ == "__main__":
    main()
