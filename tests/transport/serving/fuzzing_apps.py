"""The requests of `test_fuzz.py`, and others, to whole apps: gateway, admin, replica.

    python -m tests.transport.serving.fuzzing_apps --requests 200000 -o benchmarks/results/fuzz.json

What h11 and llhttp both refuse must be refused, whatever is sent must be answered or its connection
end, no answer may be an error of the server, and all of them must live and be no larger afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import platform
import random
import resource
import ssl
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import h11
import uvloop

from embedfleet.runtime.settings import AdminSettings, GatewaySettings, Settings
from embedfleet.transport.access.setup import certificate
from tests.transport.access.gateway import MODEL, running
from tests.transport.access.test_tls import make_certificate
from tests.transport.serving.test_connection import post
from tests.transport.serving.test_fuzz import (
    MALFORMED,
    MAY_ANSWER_S,
    MUST_ANSWER_S,
    _Llhttp,
    allowed,
    fuzzed,
    h11_accepts,
    made,
    said,
    status_of,
)

PATHS = [
    *("/v1/embeddings", "/v1/tokenize", "/tokenize", "/v1/models", f"/v1/models/{MODEL}"),
    *("/openapi.json", "/health/live", "/health/ready", "/health", "/v1/replica", "/v1/work"),
    *("/v1/work/cancel", "/metrics", "/fleet", "/targets", "/autoscaling", "/autoscaling/pause"),
    *("/autoscaling/scale", "/cache", "/cache/clear", "/cache/warm", "/", "/v1", "/v1/models/"),
    *("/v1/replica/files/tokenizer.json", "/v1/replica/files/..%2f..%2fetc%2fpasswd"),
]
WORDS = ["a", "", " ", "sea", "x" * 300, "\x00", "\ud83d\ude00", "ï", MODEL, "-1"]
FIELDS = [
    *("model", "input", "dimensions", "encoding_format", "user", "input_type", "instruction"),
    *("truncate", "unknown", "pool", "replicas"),
]
SENT_HEADERS = [
    "Content-Type: application/json",
    "Content-Type: text/plain",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Accept-Encoding: gzip",
    "Authorization: Bearer x",
    "Authorization: Basic eA==",
    "x-api-key: x",
    "x-request-deadline-ms: 1",
    "x-request-deadline-ms: 9" + "9" * 50,
    "x-embedfleet-lane: bulk",
    "x-embedfleet-lane: none",
    "Cache-Control: no-store",
    "X-Forwarded-For: 10.0.0.1, ::1",
    "x-request-id: " + "r" * 200,
    "traceparent: 00-" + "f" * 32 + "-" + "0" * 16 + "-01",
    "Origin: http://evil.example",
    "Expect: 100-continue",
]


def value(rng: random.Random, depth: int = 0) -> object:
    """Any JSON, mostly small."""
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind < 3:
        return rng.choice(WORDS)
    if kind == 3:
        return rng.choice([0, 1, -1, 32, 640, 2**31, 2**63, 1.5, 1e300])
    if kind < 6:
        return rng.choice([None, True, False])
    if kind < 8:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {rng.choice(FIELDS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def body(rng: random.Random) -> bytes:
    """A request for vectors in which some field is anything; now and then not even JSON."""
    fields: dict[str, object] = {"model": MODEL, "input": rng.choice(["a", ["a", "sea"], [[5, 6]]])}
    for _ in range(rng.randrange(3)):
        fields[rng.choice(FIELDS)] = value(rng)
    raw = bytearray(json.dumps(fields if rng.random() < 0.9 else value(rng)).encode())
    for _ in range(rng.randrange(3) if rng.random() < 0.4 else 0):
        at = rng.randrange(len(raw) + 1)
        raw[at:at] = rng.choice([b"{", b"[" * 50, b'"', b"\\", b"\xff", b",", b"\x00", b"9" * 30])
    return bytes(raw)


def asked(rng: random.Random) -> bytes:
    """A well-framed request to one of the routes, or the malformed ones of `test_fuzz.py`."""
    if rng.random() < 0.4:
        return made(rng)
    sent = post(rng.choice(PATHS), body(rng), *rng.sample(SENT_HEADERS, rng.randrange(4)))
    sent = sent.replace(b"Host: here", b"Host: 127.0.0.1", 1)
    if rng.random() < 0.4:
        method = rng.choice([b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
        sent = sent.replace(b"POST", method, 1)
    return sent


EXPECTED = {*MALFORMED, 502, 503, 504}
"""Errors that are none of the server's; 502 is what a replica calls a call that is none."""


class Reported(logging.Handler):
    """What the log calls a bug, or worse than a warning."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def fuzz_apps(scratch: Path, seed: int, count: int, at_once: int = 64) -> dict[str, int]:
    """Send so many requests to four apps in turns; outcomes by app and status.

    Raises AssertionError with the request that was answered otherwise than it must be.
    """
    chain, key = make_certificate(scratch / "tls")
    trusted = ssl.create_default_context(cafile=chain)
    rng, outcomes, reported = random.Random(seed), Counter[str](), Reported()
    logging.getLogger().addHandler(reported)
    settings = Settings(gateway=GatewaySettings(request_timeout_s=20))
    secured = replace(
        settings,
        gateway=replace(settings.gateway, tls_certificate=chain, tls_key=key),
        admin=AdminSettings(tls_certificate=chain, tls_key=key),
    )
    async with (
        running(scratch / "plain", settings) as plain,
        running(scratch / "secured", secured) as coded,
    ):
        (member,) = plain.gateway.pools[0].fleet
        doors = [
            ("gateway", urlsplit(plain.url).port or 0, None),
            ("admin", urlsplit(plain.admin).port or 0, None),
            ("replica", urlsplit(member.url).port or 0, None),
            ("gateway, TLS", urlsplit(coded.url).port or 0, trusted),
            ("admin, TLS", urlsplit(coded.admin).port or 0, trusted),
        ]
        gate = asyncio.Semaphore(at_once)

        async def one(sent: bytes, dice: random.Random) -> None:
            name, port, tls = dice.choice(doors)
            heads: list[h11.Request] = []
            verdicts = _Llhttp.accepts(sent), h11_accepts(sent, heads)
            right = verdicts == (True, True) and allowed(heads[0])
            certain = right or verdicts == (False, False)
            async with gate:
                got = await said(port, sent, dice, tls, MUST_ANSWER_S if certain else MAY_ANSWER_S)
            status = status_of(got)
            outcomes[f"{name}: {status or 'none'}"] += 1
            assert status is None or status < 500 or status in EXPECTED, (sent, got)
            assert status != 502 or b"/v1/work" in sent, (sent, got)
            if verdicts == (False, False):
                assert status is not None, (sent, got)
                assert 400 <= status < 500 or status in MALFORMED, (sent, got)
            if right:
                assert status is not None, (sent, got)

        before = 0
        for start in range(0, count, 500):
            batch = [asked(rng) for _ in range(min(500, count - start))]
            await asyncio.gather(*(one(sent, random.Random(rng.random())) for sent in batch))
            if start <= 2000:
                gc.collect()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown_mib < 100, f"{grown_mib:.0f} MiB"
        for name, port, tls in doors:
            question = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            assert status_of(await said(port, question, rng, tls, MUST_ANSWER_S)) == 200, name
        async with plain.client() as client:
            answer = await client.embeddings.create(model=MODEL, input="the sea")
        assert len(answer.data) == 1
    logging.getLogger().removeHandler(reported)
    assert not reported.lines, reported.lines[:3]
    return dict(sorted(outcomes.items()))


async def _all(scratch: Path, seed: int, count: int) -> dict[str, int]:
    """Two thirds to whole apps; the rest to one that answers everything, half of it over TLS."""
    echoed = count // 6
    outcomes = await fuzz_apps(scratch, seed, count - 2 * echoed, at_once=256)
    chain, key = make_certificate(scratch / "tls")
    context, _ = certificate(chain, key)
    if context is None:
        raise AssertionError
    await fuzzed(seed, echoed)
    await fuzzed(seed + 1, echoed, (context, ssl.create_default_context(cafile=chain)))
    return outcomes | {"an app that answers everything": echoed, "the same, TLS": echoed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = uvloop.run(_all(Path(scratch), given.seed, given.requests))
    report = {
        "command": f"python -m tests.transport.serving.fuzzing_apps --requests {given.requests} "
        f"--seed {given.seed}",
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} processors that others used as well",
        "requests": sum(outcomes.values()),
        "seconds": round(time.monotonic() - began),
        "answers": outcomes,
    }
    given.output.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
