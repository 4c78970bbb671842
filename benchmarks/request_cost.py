"""What a request costs the gateway: Python calls and processor time, version beside version.

    python -m benchmarks.request_cost [--checkout NAME=DIRECTORY …] [--rounds 9] [--requests 400]
                                      [--cases hit,miss,…] [--profile CASE] [--name request-cost]

Each version is a whole gateway in a process of its own, started as the command starts it, over one
emulated replica. Its own listening protocol gets requests as OpenAI's client writes them through a
transport in memory, 16 connections at once, and its calls to the replica are answered in memory
too: no call of the system, no wake-up, nothing that the rest of the machine could be part of. Time
is the processor's (`time.process_time`), less what client and replica took of it. Versions take
turns in every round; reported are the medians of the rounds and of the ratios to the first version.
Python calls are counted apart from that, by `sys.setprofile`, and hardly vary.

    hit       one text that the cache knows
    miss      one text that it does not
    ids       the same as 20 token ids, with no cache
    keyed     a hit, by a key with limits
    hits64    64 texts that it knows
    misses64  64 texts that it does not
    http      what HTTP costs of a hit: an app that only reads the body and sends an answer as long
    uvicorn   the same behind uvicorn's own connection (httptools), which bounds nothing

`--checkout before=/tmp/old` adds the gateway of another checkout, which runs in this environment.
`--profile hit` prints where the calls and the time of this checkout go instead.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import http.client
import importlib
import json
import os
import pstats
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

HERE = Path(__file__).resolve().parent
CONNECTIONS = 16
WIDTH = 1024
CASES: Final = ("hit", "miss", "ids", "keyed", "hits64", "misses64", "http", "uvicorn")
TEXT = "What is the difference between a lease and a lock in a distributed system, number {}?"

HEAD = (
    "POST /v1/embeddings HTTP/1.1\r\n"
    "Host: 127.0.0.1:8080\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Connection: keep-alive\r\n"
    "Accept: application/json\r\n"
    "Content-Type: application/json\r\n"
    "User-Agent: OpenAI/Python 1.109.1\r\n"
    "X-Stainless-Lang: python\r\n"
    "X-Stainless-Package-Version: 1.109.1\r\n"
    "X-Stainless-OS: Linux\r\n"
    "X-Stainless-Arch: x64\r\n"
    "X-Stainless-Runtime: CPython\r\n"
    "X-Stainless-Runtime-Version: 3.11.7\r\n"
    "X-Stainless-Async: false\r\n"
    "X-Stainless-Retry-Count: 0\r\n"
    "X-Stainless-Read-Timeout: 600\r\n"
    "Authorization: Bearer {key}\r\n"
    "Content-Length: {size}\r\n\r\n"
)
"""What OpenAI's client for Python sends (1.109)."""


# -- the process of one version --------------------------------------------------------


def found(*names: str) -> Any:
    """A module of this version, by the name that it has there."""
    for name in names:
        with suppress(ModuleNotFoundError):
            return importlib.import_module(f"embedfleet.{name}")
    raise SystemExit(f"this version has none of {names}")


class Meter:
    """What is counted while requests are answered, and what is not the gateway's of it."""

    def __init__(self) -> None:
        self.others_s = 0.0
        self.calls = 0
        self.counting: Callable[[FrameType, str, Any], object] | None = None
        self.profile: cProfile.Profile | None = None

    def count(self, _frame: FrameType, event: str, _argument: Any) -> None:
        self.calls += event == "call"

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Around work that the gateway's clients and replicas do."""
        sys.setprofile(None)
        began = time.process_time()
        try:
            yield
        finally:
            self.others_s += time.process_time() - began
            if self.profile is not None:
                self.profile.enable()
            elif self.counting is not None:
                sys.setprofile(self.counting)


METER = Meter()


class MemoryTransport(asyncio.Transport):
    """The side of a connection that the gateway holds."""

    def __init__(self, written: Callable[[bytes], None], real: socket.socket) -> None:
        super().__init__()
        self._written, self._socket = written, real
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"socket": self._socket, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}
        return known.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with METER.elsewhere():
            self._written(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class Replica:
    """Answers calls at once, with prepared vectors, another one for each text of a call; pages are
    the emulated replica's.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, host: str, port: int
    ) -> None:
        self._loop, self._protocol = loop, protocol
        self._pages = http.client.HTTPConnection(host, port)
        import numpy as np  # noqa: PLC0415

        vector = np.linspace(-1, 1, WIDTH)
        vector /= np.linalg.norm(vector)
        self._vectors = [np.roll(vector, at).astype("<f4").tobytes() for at in range(WIDTH)]
        self._calls = 0

    def written(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self._pages.request("GET", data.split(b" ", 2)[1].decode())
            answer = self._pages.getresponse()
            self._answer(b"application/json", answer.read(), answer.status)
            return
        frames = found("transport.frames", "wire.frames")
        call = frames.decode_call(data.partition(b"\r\n\r\n")[2])
        self._calls += len(call.texts)
        fields: dict[str, Any] = {
            "ids": [text.id for text in call.texts],
            "vectors": b"".join(
                self._vectors[(self._calls + at) % WIDTH] for at in range(len(call.texts))
            ),
            "failures": [],
            "queue_us": 0,
            "compute_us": 100,
            "window": 16_384,
        }
        if "echoes" in frames.Frame.__struct_fields__:
            fields["echoes"] = [frames.echo(text.ids) for text in call.texts]
        frame = frames.encode_frame(frames.Frame(**fields))
        self._answer(b"application/x-embedfleet-frames", frame)

    def _answer(self, kind: bytes, body: bytes, status: int = 200) -> None:
        head = b"HTTP/1.1 %d Told\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        answer = head % (status, kind, len(body)) + body
        self._loop.call_soon(self._protocol.data_received, answer)


class Client:
    """One connection: sends a request, and the next when its answer is whole."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: Iterator[bytes],
        ended: Callable[[], None],
    ) -> None:
        self._loop, self._requests, self._ended = loop, requests, ended
        self.protocol: asyncio.Protocol
        self._missing = 0

    def written(self, data: bytes) -> None:
        if not data:
            return
        if not self._missing:
            head, _, body = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                print(f"an answer that is none: {data[:600]!r}", file=sys.stderr, flush=True)
                os._exit(1)
            at = head.lower().index(b"content-length:") + len("content-length:")
            self._missing = int(head[at:].split(b"\r\n", 1)[0]) - len(body)
        else:
            self._missing -= len(data)
        if not self._missing:
            self.send()

    def send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._ended()
        else:
            self._loop.call_soon(self.protocol.data_received, request)


async def bare(_scope: Any, receive: Any, send: Any) -> None:
    """An app that answers as long as the gateway does."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": ANSWERED})
    await send({"type": "http.response.body", "body": b"v" * 5600})


ANSWERED: Final = [
    (b"content-type", b"application/json"),
    (b"content-length", b"5600"),
    (b"x-request-id", b"req_0123456789ab00000001"),
    (b"server-timing", b"queue;dur=0.0, compute;dur=0.0"),
    (b"x-embedfleet-overhead-ms", b"0.10"),
    (b"x-embedfleet-cache", b"hit=1; miss=0"),
    (b"x-embedfleet-space", b"0123456789abcdef0123456789abcdef"),
]


class Stage:
    """The gateway of this process, and what it is asked."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.made: dict[int, Callable[[], asyncio.Protocol]] = {}
        """By the port that they listen at."""
        self._numbers = iter(range(10**9))
        self._real = socket.socket()

    def _protocol(self, case: str) -> asyncio.Protocol:
        factory: Any = next(iter(self.made.values()))
        protocol = factory()
        if case == "uvicorn":
            from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415
            from uvicorn.server import ServerState  # noqa: PLC0415

            protocol = HttpToolsProtocol(factory.args[0], ServerState(), {})
        if case in {"http", "uvicorn"}:
            setattr(protocol, "app" if hasattr(protocol, "app") else "_app", bare)
        return cast("asyncio.Protocol", protocol)

    def requests(self, case: str, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield self.request(case)

    def request(self, case: str) -> bytes:
        number = next(self._numbers)
        given: object = TEXT.format("nine")
        if case == "miss":
            given = TEXT.format(number)
        elif case == "ids":
            given = list(range(1000, 1020))
        elif case == "hits64":
            given = [TEXT.format(f"nine {each}") for each in range(64)]
        elif case == "misses64":
            given = [TEXT.format(f"{number} {each}") for each in range(64)]
        body = json.dumps({"input": given, "model": "bench", "encoding_format": "base64"})
        return (HEAD.format(key=self._key, size=len(body)) + body).encode()

    async def ready(self) -> None:
        """Return once the gateway says that it is."""
        asked = b"GET /health/ready HTTP/1.1\r\nhost: a\r\n\r\n"
        heard = [b""]
        while not heard[-1].startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(0.1)
            protocol = next(iter(self.made.values()))()
            heard.clear()
            protocol.connection_made(MemoryTransport(heard.append, self._real))
            protocol.data_received(asked)
            await asyncio.sleep(0.1)
            protocol.connection_lost(None)
            heard[:] = [b"".join(heard)]

    async def run(self, case: str, count: int) -> dict[str, float]:
        """Have so many requests answered; processor time and Python calls of one."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        left = CONNECTIONS
        requests = iter(list(self.requests(case, count)))

        def end() -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set_result(None)

        clients = []
        for _ in range(CONNECTIONS):
            client = Client(loop, requests, end)
            client.protocol = self._protocol(case)
            client.protocol.connection_made(MemoryTransport(client.written, self._real))
            clients.append(client)
        METER.calls, METER.others_s = 0, 0.0
        for client in clients:
            client.send()
        if METER.counting is not None:
            sys.setprofile(METER.counting)
        if METER.profile is not None:
            METER.profile.enable()
        began = time.process_time()
        await ended
        seconds = time.process_time() - began - METER.others_s
        sys.setprofile(None)
        for client in clients:
            client.protocol.connection_lost(None)
        return {"us": seconds / count * 1e6, "calls": METER.calls / count}


def tapped(stage: Stage, results: int) -> Callable[[], asyncio.AbstractEventLoop]:
    """Event loops whose listening protocols are the stage's, and whose calls end in memory."""
    import uvloop  # noqa: PLC0415

    connection = found(
        "server.gateway.replicas.connections", "server.gateway.connections", "gateway.connections"
    ).Connection
    answering: list[asyncio.Task[None]] = []

    class Loop(uvloop.Loop):
        async def create_server(  # type: ignore[override]
            self, factory: Any, *args: Any, **named: Any
        ) -> Any:
            if (bound := named.get("sock")) is not None:
                stage.made.setdefault(bound.getsockname()[1], factory)
                if not answering:
                    answering.append(self.create_task(_answer(stage, results)))
            return await super().create_server(factory, *args, **named)

        async def create_connection(  # type: ignore[override]
            self, factory: Any, *args: Any, **named: Any
        ) -> Any:
            if factory is not connection:
                return await super().create_connection(factory, *args, **named)
            protocol = factory()
            replica = Replica(self, protocol, *args)
            transport = MemoryTransport(replica.written, socket.socket())
            protocol.connection_made(transport)
            return transport, protocol

    return Loop


async def _answer(stage: Stage, results: int) -> None:
    """Do what is asked on standard input, a line for each."""
    loop = asyncio.get_running_loop()
    await stage.ready()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(0, lambda: lines.put_nowait(sys.stdin.readline()))
    os.write(results, b"{}\n")
    while line := await lines.get():
        order = json.loads(line)
        METER.counting = METER.count if order["count"] else None
        METER.profile = cProfile.Profile() if order["profile"] else None
        seen = await stage.run(order["case"], order["requests"])
        if METER.profile is not None:
            METER.profile.disable()
            pstats.Stats(METER.profile).dump_stats(order["profile"])
        os.write(results, json.dumps(seen).encode() + b"\n")
    os._exit(0)


def serve(results: int, key: str, arguments: list[str]) -> None:
    """Be the gateway, and do what is asked once it is ready."""
    import uvloop  # noqa: PLC0415

    from embedfleet.__main__ import main as command  # noqa: PLC0415

    stage = Stage(key)

    def run(main: Any, **_: Any) -> Any:
        with asyncio.Runner(loop_factory=tapped(stage, results)) as runner:
            return runner.run(main)

    uvloop.run = run
    sys.argv = ["embedfleet", *arguments]
    command()


# -- versions side by side -------------------------------------------------------------


class Version:
    """A gateway of one checkout, waiting for its turn."""

    def __init__(self, checkout: Path, place: Path, mode: str, urls: list[str]) -> None:
        place.mkdir(parents=True)
        self._python = sys.executable
        path = os.pathsep.join([str(checkout / "src"), str(HERE.parent)])
        self._environment = os.environ | {"PYTHONPATH": path}
        key = "none"
        more = ""
        if mode == "keyed":
            key = self._create_key(place)
            more = f'[access]\nkeys_file = "{place / "keys.json"}"\n'
        if mode == "ids":
            more = "[cache]\nmemory_mib = 0\n"
        settings = checkout.glob("src/embedfleet/**/settings/gateway.py")
        known = any("input_ids" in each.read_text() for each in settings)
        accepts = '[gateway]\ninput_ids = "accept"\n' if known else ""
        config = place / "embedfleet.toml"
        config.write_text(f"[admin]\nport = 0\n[fleet]\nprobe_interval_s = 60\n{more}{accepts}")
        replicas = [word for url in urls for word in ("--replica", url)]
        read, write = os.pipe()
        arguments = ["gateway", "--port", "0", "--served-name", "bench", "--config", str(config)]
        self._process = subprocess.Popen(
            [
                *(self._python, str(Path(__file__)), "--serve", str(write), key),
                *arguments,
                *replicas,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(place / "log").open("w"),
            pass_fds=[write],
            env=self._environment,
        )
        os.close(write)
        self._results = os.fdopen(read)
        self._log = place / "log"
        self._read()

    def _create_key(self, place: Path) -> str:
        limits = ("--requests-per-minute", str(10**9), "--tokens-per-minute", str(10**12))
        create = ["keys", "create", "--file", str(place / "keys.json"), "--name", "b", *limits]
        made = subprocess.run(
            [self._python, "-m", "embedfleet", *create],
            check=True,
            capture_output=True,
            text=True,
            env=self._environment,
        )
        return made.stdout.strip()

    def ask(
        self, case: str, requests: int, *, count: bool = False, profile: str = ""
    ) -> dict[str, float]:
        order = {"case": case, "requests": requests, "count": count, "profile": profile}
        cast("Any", self._process.stdin).write(json.dumps(order).encode() + b"\n")
        cast("Any", self._process.stdin).flush()
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, float]:
        line = self._results.readline()
        if not line:
            raise SystemExit(f"a gateway ended:\n{self._log.read_text()[-3000:]}")
        return cast("dict[str, float]", json.loads(line))


MODES: Final = {"ids": "ids", "keyed": "keyed"}


@contextmanager
def replica(place: Path) -> Iterator[str]:
    """An emulated replica, for what is asked of it beside calls."""
    from benchmarks.gateway import write_model  # noqa: PLC0415

    write_model(place / "model", WIDTH)
    program = [sys.executable, "-m", "benchmarks.gateway_replica", "--model", str(place / "model")]
    process = subprocess.Popen(
        [*program, "--speed", "0", "--width", str(WIDTH)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )
    try:
        yield cast("Any", process.stdout).readline().split()[-1]
    finally:
        process.kill()
        process.wait()


def measured(
    versions: dict[str, Path], cases: list[str], rounds: int, requests: int
) -> dict[str, Any]:
    """Microseconds and calls of one request, by case and version."""
    found: dict[str, Any] = {}
    first = next(iter(versions))
    with tempfile.TemporaryDirectory(prefix="request-cost-") as scratch, ExitStack() as stack:
        place = Path(scratch)
        url = stack.enter_context(replica(place))
        running: dict[tuple[str, str], Version] = {}
        for case in cases:
            mode = MODES.get(case, "plain")
            few = max(CONNECTIONS, requests // (16 if case.endswith("64") else 1))
            for name, checkout in versions.items():
                if (name, mode) not in running:
                    version = Version(checkout, place / f"{name}-{mode}", mode, [url])
                    stack.callback(version.close)
                    running[name, mode] = version
                running[name, mode].ask(case, few)  # warm
            calls = {
                name: running[name, mode].ask(case, few, count=True)["calls"] for name in versions
            }
            seen: dict[str, list[float]] = {name: [] for name in versions}
            for _ in range(rounds):
                for name in versions:
                    seen[name].append(running[name, mode].ask(case, few)["us"])
            found[case] = {
                name: {
                    "calls": round(calls[name], 1),
                    "us": round(statistics.median(seen[name]), 1),
                    f"us over {first}": round(
                        statistics.median(
                            one / other for one, other in zip(seen[name], seen[first], strict=True)
                        ),
                        3,
                    ),
                    "rounds": [round(each, 1) for each in seen[name]],
                }
                for name in versions
            }
            for name, told in found[case].items():
                ratio = told[f"us over {first}"]
                print(
                    f"{case:9s} {name:8s} {told['calls']:8.1f} calls {told['us']:8.1f} us  {ratio}"
                )
    return found


def profiled(case: str, checkout: Path, requests: int) -> None:
    """Print where the time of one request goes, by module and by function."""
    with tempfile.TemporaryDirectory(prefix="request-cost-") as scratch, ExitStack() as stack:
        place = Path(scratch)
        url = stack.enter_context(replica(place))
        version = Version(checkout, place / "one", MODES.get(case, "plain"), [url])
        stack.callback(version.close)
        version.ask(case, requests)
        version.ask(case, requests, profile=str(place / "stats"))
        stats: Any = pstats.Stats(str(place / "stats")).stats  # type: ignore[attr-defined]
    modules: dict[str, list[float]] = {}
    functions = []
    for (file, line, name), (_, calls, own, _, _) in stats.items():
        short = file.partition("site-packages/")[2] or file.partition("/src/embedfleet/")[2]
        module = short or file.rpartition("/")[2] if file != "~" else "in C"
        entry = modules.setdefault(module, [0.0, 0.0])
        entry[0] += calls / requests
        entry[1] += own / requests * 1e6
        functions.append((own / requests * 1e6, calls / requests, f"{module}:{line} {name}"))
    for module, (calls, own) in sorted(modules.items(), key=lambda each: -each[1][0])[:45]:
        print(f"{own:8.2f} us {calls:8.2f} calls  {module}")
    print()
    for own, calls, name in sorted(functions, reverse=True)[:250]:
        print(f"{own:8.2f} us {calls:8.2f} calls  {name}")


def commit_of(checkout: Path) -> str:
    asked = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description="what a request costs the gateway")
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--profile", metavar="CASE")
    parser.add_argument("--name", help="of the file of results; none is written without one")
    chosen = parser.parse_args()
    if chosen.profile:
        checkout = Path(chosen.checkout[0].partition("=")[2]) if chosen.checkout else HERE.parent
        profiled(chosen.profile, checkout, chosen.requests)
        return
    versions = {
        name: Path(where) for name, _, where in (each.partition("=") for each in chosen.checkout)
    }
    versions["this"] = HERE.parent
    load = os.getloadavg()[0]
    found = measured(versions, chosen.cases.split(","), chosen.rounds, chosen.requests)
    if chosen.name:
        from benchmarks.gateway import machine  # noqa: PLC0415

        report = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": " ".join(["python -m benchmarks.request_cost", *sys.argv[1:]]),
            "checkouts": {name: commit_of(where) for name, where in versions.items()},
            "machine": machine() | {"load before and after": [load, os.getloadavg()[0]]},
            "cases": found,
        }
        path = HERE / "results" / f"{chosen.name}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
