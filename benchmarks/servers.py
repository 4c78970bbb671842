"""HTTP servers for the gateway's apps, side by side: what a request of one text costs behind each.

    python -m benchmarks.servers [--rounds 5] [--seconds 5] [--servers embedfleet,uvicorn-h11,…]
                                 [--before CHECKOUT] [--cached]

Each server carries the real gateway in front of emulated replicas that cost nothing (`gateway.py`,
measure c), on one core; wrk sends requests of one text over 64 connections. Servers take turns in
every round, so that whatever else the machine does meets all of them; medians of the rounds are
reported, and medians of the ratios to the first.

`embedfleet` is the server as it is; `before` that of another checkout. `uvicorn-httptools` and
`uvicorn-h11` are uvicorn's own protocols with no limits. `hypercorn` and `granian` run in the
gateway's event loop (granian's `embed.Server`, whose HTTP is Rust's hyper on a thread of its own;
its processor time counts). Those two come from PyPI: `pip install --target
build/benchmarks/servers hypercorn granian`. Prints a table and writes a file of results.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from benchmarks.gateway import Results, machine, write_model
from benchmarks.gateway_contenders import (
    CONTENDERS,
    IN_FULL,
    PLACE,
    Contender,
    NotHereError,
    debian,
)
from benchmarks.gateway_measures import Stage, single_texts

HERE = Path(__file__).parent
LIBRARIES = PLACE / "servers"


@contextlib.asynccontextmanager
async def _uvicorn(listeners: Sequence[Any], http: str, **_: Any) -> AsyncIterator[None]:
    servers, tasks = [], []
    for each in listeners:
        chosen = uvicorn.Config(
            each.app, http=http, ws="none", lifespan="off", access_log=False, log_config=None
        )
        servers.append(uvicorn.Server(chosen))
        servers[-1].capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        tasks.append(asyncio.create_task(servers[-1].serve([each.socket])))
    yield
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def _hypercorn(listeners: Sequence[Any], **_: Any) -> AsyncIterator[None]:
    from hypercorn.asyncio import serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    stop = asyncio.Event()
    tasks = []
    for each in listeners:
        config = Config()
        config.bind = [f"fd://{each.socket.dup().detach()}"]
        config.accesslog = None
        config.keep_alive_max_requests = 10**9
        work = serve(each.app, config, shutdown_trigger=stop.wait, mode="asgi")
        tasks.append(asyncio.create_task(work))
    yield
    stop.set()
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def _granian(listeners: Sequence[Any], **_: Any) -> AsyncIterator[None]:
    from granian.constants import Interfaces  # noqa: PLC0415
    from granian.server.embed import Server  # noqa: PLC0415

    servers, tasks = [], []
    for each in listeners:
        host, port = each.socket.getsockname()[:2]
        each.socket.close()  # it takes no socket that is bound
        made = Server(
            each.app, host, port, interface=Interfaces.ASGINL, websockets=False, log_enabled=False
        )
        servers.append(made)
        tasks.append(asyncio.create_task(made.serve()))
    yield
    for server in servers:
        server.stop()
    await asyncio.gather(*tasks)


SERVERS: dict[str, Any] = {
    "embedfleet": None,
    "uvicorn-httptools": partial(_uvicorn, http="httptools"),
    "uvicorn-h11": partial(_uvicorn, http="h11"),
    "hypercorn": _hypercorn,
    "granian": _granian,
}


def serve(name: str, arguments: list[str]) -> None:
    """The gateway behind another server."""
    sys.path.append(str(LIBRARIES))
    from embedfleet.cli import command_line as cli  # noqa: PLC0415
    from embedfleet.server.gateway import app  # noqa: PLC0415
    from embedfleet.transport.serving import Listener  # noqa: PLC0415

    other = SERVERS[name]
    if other is not None:
        app.serving = other  # type: ignore[attr-defined]
        Listener.address = name  # type: ignore[method-assign,assignment]  # it may be closed by then
    sys.argv = ["embedfleet", *arguments]
    cli.main()


def contender(name: str, checkout: Path, *, cached: bool = False) -> Contender:
    """The gateway of a checkout behind one of the servers."""
    usual = IN_FULL if cached else CONTENDERS["embedfleet"]
    settings = checkout.glob("src/embedfleet/**/settings/gateway.py")
    checks_ids = any("input_ids" in each.read_text() for each in settings)

    def command(port: int, replicas: Sequence[int], place: Path) -> list[str]:
        _python, _m, _embedfleet, *arguments = usual.command(port, replicas, place)
        if not checks_ids:  # it takes any ids, and does not know the setting
            config = place / "embedfleet.toml"
            config.write_text(config.read_text().partition("[gateway]")[0])
        python = str(checkout / ".venv/bin/python")
        if SERVERS[name] is None:
            return [python, "-m", "embedfleet", *arguments]
        return [python, "-m", "benchmarks.servers", "--serve", name, *arguments]

    return replace(usual, command=command)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description="HTTP servers side by side")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--before", type=Path, help="a checkout of an older version")
    parser.add_argument("--cached", action="store_true", help="out of the cache, with keys")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--name", default="servers", help="of the file of results")
    chosen = parser.parse_args()
    debian("wrk", program="wrk")
    here = HERE.parent
    turns = {
        name: contender(name, here, cached=chosen.cached) for name in chosen.servers.split(",")
    }
    if chosen.before is not None:
        turns["before"] = contender("embedfleet", chosen.before, cached=chosen.cached)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="servers-benchmark-") as scratch:
        place = Path(scratch)
        write_model(place / "model", 1024)
        stage = Stage(place, place / "model", 1024, chosen.seconds)
        for _ in range(chosen.rounds):
            for name, each in turns.items():
                try:
                    results.add("one text", name, single_texts(stage, each, text=False))
                except NotHereError as error:
                    print(f"{name}: {error}", flush=True)
    seen = results.rounds["one text"]
    first = next(iter(turns))
    ratios = {
        name: statistics.median(
            one["cpu_us_per_text"] / other["cpu_us_per_text"]
            for one, other in zip(rounds, seen[first], strict=False)
        )
        for name, rounds in seen.items()
    }
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks.servers", *sys.argv[1:]]),
        "machine": machine(),
        "medians": results.medians(),
        f"processor time beside {first}": ratios,
        "rounds": results.rounds,
    }
    (HERE / "results" / f"{chosen.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    for name, numbers in results.medians()["one text"].items():
        shown = "  ".join(f"{key} {value:,.5g}" for key, value in numbers.items())
        print(f"{name:18s} {shown}  ratio {ratios[name]:.3f}")


if __name__ == "__main__":
    main()
