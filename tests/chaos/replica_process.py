"""A real replica, in a process of its own, that misbehaves on command.

    python -m tests.chaos.replica_process MODEL_DIR PORT SEED [PROBABILITY FAULT,FAULT,…]

It serves `embedfleet.server.replica.service.Replica` over an engine whose vectors reveal their
texts. Every frame that it sends goes wrong with the given probability, in one of the given ways. A
child serves and the parent starts another one as soon as it dies, so that a replica comes back
within milliseconds; SIGUSR1 to the parent kills the child, SIGUSR2 stops it for two seconds.
`GET /chaos?probability=0.1&faults=slow,die` changes what goes wrong, `GET /chaos?hang=20` lets the
engine hang for so many seconds, `GET /chaos?nested=1000` has it describe itself by so many lists in
each other until it is told 0. Computed texts are counted in a file that outlives the process.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import random
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from embedfleet.api.endpoint import Endpoint
from embedfleet.api.formats.openai import RequestLimits
from embedfleet.engines.protocol import Computation
from embedfleet.models.description import describe
from embedfleet.models.files import Snapshot
from embedfleet.server.replica.service import Replica
from embedfleet.transport.asgi import App, Message, Receive, Scope, Send
from embedfleet.transport.frames import FrameDecoder
from embedfleet.transport.serving import Listener, bind, serving
from tests.chaos.faults import LIES
from tests.fakes.revealing_engine import WIDTH, RevealingEngine

DEADLY = 666
"""A token id that kills whatever process computes it, as some texts do with some engines."""

DROPS = 10
"""Pieces that a frame comes in, with a pause after each."""

ORDERS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD}
"""What the parent waits for."""

log = logging.getLogger("chaos")


def count_file(directory: Path, port: int) -> Path:
    """Where the replica at this port counts the texts that it computed: 8 bytes, little-endian."""
    return directory / f"computed-{port}"


class DeadlyEngine(RevealingEngine):
    """Dies of one token id, hangs on command and counts what it computes."""

    def __init__(self, count: mmap.mmap, *, batch_tokens: int) -> None:
        super().__init__(batch_tokens=batch_tokens)
        self.hangs_until = 0.0
        """Monotonic seconds."""
        self._count = count

    def prepare(self, batch: Any) -> Any:
        compute = super().prepare(batch)

        def compute_or_die() -> Any:
            if any(DEADLY in ids for ids in batch):
                os.kill(os.getpid(), signal.SIGKILL)
            while time.monotonic() < self.hangs_until:
                time.sleep(0.05)
            self.batches.clear()  # a test of memory must not remember everything
            vectors = compute()
            self._count[:] = (int.from_bytes(self._count, "little") + len(batch)).to_bytes(
                8, "little"
            )
            return vectors

        return Computation(compute_or_die)


class Mischief:
    """An ASGI app around a replica: most frames pass, some do not."""

    def __init__(self, inside: App, engine: DeadlyEngine, dice: random.Random) -> None:
        self._inside = inside
        self._engine = engine
        self._dice = dice
        self.probability = 0.0
        self.faults: tuple[str, ...] = ()
        self.nested = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/chaos":
            self.command(scope["query_string"].decode())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope.get("path") == "/v1/replica" and self.nested:
            body = b'{"wire":1,"more":%b%b}' % (b"[" * self.nested, b"]" * self.nested)
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        if scope.get("path") != "/v1/work":
            await self._inside(scope, receive, send)
            return
        fault = self._fault()
        if fault == "refuse":
            headers = [(b"content-length", b"4")]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": b"oops"})
            return

        async def send_or_not(message: Message) -> None:
            nonlocal fault
            if message.get("more_body") and message["body"]:
                chosen, fault = fault, self._fault()
                if chosen and chosen != "refuse":
                    message = await self._spoil(chosen, message, send)
                    log.warning("one more frame goes out wrong: %s", chosen)
            await send(message)

        await self._inside(scope, receive, send_or_not)

    def command(self, query: str) -> None:
        chosen = dict(parse_qsl(query))
        if "hang" in chosen:
            self._engine.hangs_until = time.monotonic() + float(chosen["hang"])
            return
        if "nested" in chosen:
            self.nested = int(chosen["nested"])
            return
        self.probability = float(chosen.get("probability", 0.0))
        self.faults = tuple(filter(None, chosen.get("faults", "").split(",")))

    def _fault(self) -> str:
        """What goes wrong next; usually nothing."""
        if self.faults and self._dice.random() < self.probability:
            return self._dice.choice(self.faults)
        return ""

    async def _spoil(self, fault: str, message: Message, send: Send) -> Message:
        body: bytes = message["body"]
        if fault == "slow":
            await asyncio.sleep(self._dice.uniform(0.05, 0.5))
            return message
        if fault == "drip":
            drops = range(0, len(body), max(1, len(body) // DROPS))
            for start, end in pairwise(drops):
                await send({**message, "body": body[start:end]})
                await asyncio.sleep(self._dice.uniform(0.01, 0.1))
            return {**message, "body": body[drops[-1] :]}
        if fault in LIES:
            (frame,) = FrameDecoder().feed(body)
            if frame.ids:
                return {**message, "body": LIES[fault](frame, WIDTH, self._dice)}
            return message
        await send({**message, "body": body[: len(body) // 2]})
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's own object
        return {**message, "body": b""}


async def serve(directory: Path, port: int, dice: random.Random, orders: str) -> None:
    identity = describe(directory).identity
    with count_file(directory, port).open("r+b") as counted:
        engine = DeadlyEngine(mmap.mmap(counted.fileno(), 8), batch_tokens=1024)
    replica = Replica(
        engine,
        identity,
        served_names=["chaos"],
        files=Snapshot.of(directory),
        max_body_bytes=10**8,
        max_queued_tokens=10**6,
    )
    endpoint = Endpoint(
        dict,
        limits=RequestLimits(),
        max_body_bytes=10**6,
        max_held_bytes=10**7,
        timeout_s=5,
        tokenizer_threads=1,
        answered=lambda _: None,
    )
    mischief = Mischief(replica.app(endpoint), engine, dice)
    mischief.command(orders)
    batching = asyncio.create_task(replica.batcher.run())
    async with serving([Listener(mischief, bind("127.0.0.1", port))], stop_timeout_s=1):
        await batching


def child(seed: int) -> int:
    """Serve in a process of its own; return its number."""
    directory, port = Path(sys.argv[1]), int(sys.argv[2])
    orders = "probability={}&faults={}".format(*sys.argv[4:6]) if len(sys.argv) > 4 else ""
    number = os.fork()
    if not number:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ORDERS)
        asyncio.run(serve(directory, port, random.Random(seed), orders))
        os._exit(0)
    return number


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    count_file(Path(sys.argv[1]), int(sys.argv[2])).write_bytes(bytes(8))
    seed = int(sys.argv[3])
    # Taken one after the other, so that each finds the child that it is meant for: in the middle of
    # a replacement one would reach nobody, or a stranger.
    signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
    number = child(seed)
    while True:
        match signal.sigwait(ORDERS):
            case signal.SIGUSR1:
                os.kill(number, signal.SIGKILL)
            case signal.SIGUSR2:
                os.kill(number, signal.SIGSTOP)
                signal.alarm(2)
            case signal.SIGALRM:
                os.kill(number, signal.SIGCONT)
            case signal.SIGTERM:
                os.kill(number, signal.SIGKILL)
                return
            case signal.SIGCHLD if os.waitpid(number, os.WNOHANG)[0]:
                time.sleep(0.05)
                seed += 1000
                number = child(seed)


if __name__ == "__main__":
    main()
