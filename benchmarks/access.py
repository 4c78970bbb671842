"""What keys and limits cost a request: microseconds of one core, on the path of every request.

Limit, written down before: below 5 µs, a tenth of what is left of a request at 18,000 a second.
Predicted: 0.5 µs for the keyed hash of the header, 0.3 each for five calls, 0.5 for each clock and
bucket: 2 to 4 µs.

Processor time, so that what else runs on the machine counts less: `python -m benchmarks.access`.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gateway import machine
from msgspec.structs import replace

from embedfleet.api.served_model import Answered
from embedfleet.runtime.telemetry.logs import JsonFormatter
from embedfleet.server.gateway.recording import AccessLog
from embedfleet.transport.access import Access, KeyRing, OpenAccess
from embedfleet.transport.access.keys import mint
from embedfleet.transport.access.records import record_of
from embedfleet.transport.asgi import Message, Request, Response
from embedfleet.vocabulary import UnauthorizedError

REQUESTS = 20_000
ROUNDS = 9

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY = mint(secrets.token_bytes)
BEARER = f"Bearer {KEY.text}"
RECORD = record_of(KEY, "benchmark", NOW)
TOKENS = replace(RECORD, tokens_per_minute=10**12)
ALL = replace(
    TOKENS,
    requests_per_minute=10**12,
    concurrent_texts=64,
    models=("model",),
    expires=datetime(2100, 1, 1, tzinfo=UTC),
)


def others(count: int) -> list[str]:
    """Headers with keys that nobody has."""
    return [f"Bearer {mint(secrets.token_bytes).text}" for _ in range(count)]


def served(access: Access, *, told: bool = False) -> float:
    """Microseconds of a request that is let in, with or without telling what is left."""
    began = time.process_time()
    for _ in range(REQUESTS):
        allowed = access.open(BEARER)
        allowed.enter("model", 1)
        allowed.charge(20)
        if told:
            allowed.headers()
        allowed.close()
    return (time.process_time() - began) / REQUESTS * 1e6


def refused(access: Access, headers: list[str]) -> float:
    """Microseconds of a request that is not let in."""
    began = time.process_time()
    for header in headers:
        try:
            access.open(header)
        except UnauthorizedError:
            continue
    return (time.process_time() - began) / len(headers) * 1e6


def logged(formatter: logging.Formatter) -> float:
    """Microseconds of a line of the access log, written to nowhere."""
    follow = AccessLog(())
    request = Request(
        {"method": "POST", "client": ("127.0.0.1", 1), "headers": []}, _never, _nowhere, "req_1"
    )
    request.notes["answered"] = Answered("model", 200, 0.01, 1, 20, "127.0.0.1", KEY.id, 0)
    response = Response(b"")
    log = logging.getLogger("embedfleet.access")
    log.propagate = False
    with Path(os.devnull).open("w") as nothing:
        handler = logging.StreamHandler(nothing)
        handler.setFormatter(formatter)
        log.addHandler(handler)
        began = time.process_time()
        for _ in range(REQUESTS):
            follow("/v1/embeddings", request, response, 0.01)
        micros = (time.process_time() - began) / REQUESTS * 1e6
        log.removeHandler(handler)
    return micros


async def _never() -> Message:
    raise AssertionError


async def _nowhere(_message: Message) -> None: ...


def main() -> None:
    open_, plain, tokens, everything = (
        OpenAccess(),
        KeyRing([RECORD]),
        KeyRing([TOKENS]),
        KeyRing([ALL]),
    )
    unknown = others(2000)
    wrong = [f"Bearer ef-{KEY.id}-{header.rpartition('-')[2]}" for header in unknown]
    works: dict[str, Callable[[], float]] = {
        "open to everybody": lambda: served(open_),
        "a key": lambda: served(plain),
        "a key, tokens limited": lambda: served(tokens),
        "a key, tokens limited and told": lambda: served(tokens, told=True),
        "a key, everything limited": lambda: served(everything),
        "a key, everything limited and told": lambda: served(everything, told=True),
        "refused: unknown id": lambda: refused(plain, unknown),
        "refused: wrong secret": lambda: refused(plain, wrong),
        "a line of the access log, text": lambda: logged(logging.Formatter("%(message)s")),
        "a line of the access log, JSON": lambda: logged(JsonFormatter()),
    }
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):  # one after the other, so that all meet the same machine
        for name, work in works.items():
            seen[name].append(work())
    for name, micros in seen.items():
        print(f"{name:40s} {statistics.median(micros):6.2f} µs")
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.access",
        "machine": machine(),
        "microseconds_per_request": {
            name: {"median": statistics.median(micros), "all": micros}
            for name, micros in seen.items()
        },
    }
    path = Path(__file__).parent / "results" / "access.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
