"""What the cache gives: real questions by Zipf's law, beside no cache and beside LiteLLM's.

    python -m benchmarks.cache [--rounds 2] [--seconds 5] [--only hlpma]
                               [--contenders none,memory,redis,litellm]

The gateway has the first core to itself; load (wrk, one text a request, base64),
Redis and the replicas share the other one. Replicas compute nothing (`gateway_replica.py
--speed 0`), so that the engine is not what limits anybody: what a hit saves with a real one comes
on top, as *engine work saved*. In every round each contender starts anew, gets the known questions,
and is asked at hit rates of 30, 60 and 95 %.

    l  texts/s, p50, p99 and engine work saved at each hit rate
    h  the hit path: one known text, with an API key and its limits on
    p  64 texts from Redis in one round trip
    m  bytes of memory of a vector
    a  hit ratios of the admission policy beside LRU and theine

Limit, written down before: a hit is one request in, one hash, one base64 out. HTTP takes 25 to
30 µs of a core, the endpoint 20 to 25: 18,000 to 22,000 requests a second.

Prints tables, writes `benchmarks/results/cache.json` and, with matplotlib, a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.cache_plot import plot
from benchmarks.cache_questions import Traffic, body, fresh, known, traffic
from benchmarks.gateway import machine, write_model
from benchmarks.gateway_contenders import (
    PLACE,
    NotHereError,
    Running,
    debian,
    environment,
)
from benchmarks.gateway_load import RESULT_LUA

from embedfleet.models.description import describe
from embedfleet.models.encoding.encoder import Encoder
from embedfleet.vocabulary import Truncation

HERE = Path(__file__).parent
RATES: Final = (0.30, 0.60, 0.95)
PORT, ADMIN, REDIS, REPLICAS = 19_250, 19_251, 19_252, (19_253, 19_254)
CONNECTIONS = 16
"""Of traffic at a hit rate; the hit path has 64. Few, for the sake of LiteLLM, whose requests would
each wait for seconds behind 63 others."""
PREPARED_PER_S = 30_000
"""Requests that wrk has ready for each measured second: more than a contender answers in it."""
WARM_UP = 2_000
"""Requests before it, which may be repeated."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Contender:
    """A gateway with or without a cache."""

    name: str
    tokens_are: str
    """What replicas are sent: `ids`, or `text` whose tokens they estimate."""
    redis: bool = False
    settings: str = ""
    """Of embedfleet."""


CONTENDERS = {
    each.name: each
    for each in (
        Contender("none", "ids", settings="memory_mib = 0"),
        Contender("memory", "ids", settings="memory_mib = 512"),
        Contender(
            "redis",
            "ids",
            redis=True,
            settings=f'memory_mib = 0\nredis_url = "redis://127.0.0.1:{REDIS}"\n'
            "redis_timeout_s = 0.5",
        ),
        Contender("litellm", "text", redis=True),
    )
}


@dataclass
class Place:
    """Where files go, and what is prepared."""

    directory: Path
    model: Path
    seconds: float
    new: Iterator[str] = field(default_factory=fresh)


def command_of(contender: Contender, place: Path, *, keys: Path | None = None) -> list[str]:
    """What starts a contender in front of both replicas."""
    urls = [f"http://127.0.0.1:{port}" for port in REPLICAS]
    if contender.name != "litellm":
        config = place / "embedfleet.toml"
        access = f'[access]\nkeys_file = "{keys}"\n' if keys else ""
        config.write_text(f"[admin]\nport = {ADMIN}\n{access}[cache]\n{contender.settings}\n")
        start = [sys.executable, "-m", "embedfleet", "gateway", "--port", str(PORT)]
        given = [word for url in urls for word in ("--replica", url)]
        return [*start, "--config", str(config), *given]
    models = "".join(
        f"""  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{url}/v1", api_key: none}}
    model_info: {{mode: embedding}}
"""
        for url in urls
    )
    config = place / "litellm.yaml"
    config.write_text(
        f"""model_list:
{models}router_settings: {{routing_strategy: simple-shuffle, num_retries: 0}}
litellm_settings:
  telemetry: false
  set_verbose: false
  cache: true
  cache_params:
    {{type: redis, host: 127.0.0.1, port: {REDIS}, ttl: 3600,
     supported_call_types: [embedding, aembedding]}}
"""
    )
    program = str(PLACE / "litellm" / "bin" / "litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(PORT)]


@contextmanager
def running(contender: Contender, place: Place, *, keys: Path | None = None) -> Iterator[Running]:
    """A contender over two replicas that compute nothing, and Redis where it wants one."""
    with ExitStack() as stack:
        if contender.redis:
            stack.enter_context(redis(place))
        for port in REPLICAS:
            command = [sys.executable, str(HERE / "gateway_replica.py"), "--port", str(port)]
            command += ["--model", str(place.model), "--speed", "0"]
            replica = Running(command, other_core(), place.directory / f"replica-{port}.log")
            stack.callback(replica.stop)
            replica.wait_until_it_answers(f"http://127.0.0.1:{port}/v1/replica")
        command = command_of(contender, place.directory, keys=keys)
        gateway = Running(command, 0, place.directory / f"{contender.name}.log")
        stack.callback(gateway.stop)
        if keys is None:
            url = f"http://127.0.0.1:{PORT}/v1/embeddings"
            answer = gateway.wait_until_it_answers(url, body("Are you there?"))
            if b'"embedding":"' not in answer:
                raise RuntimeError(f"{contender.name} answers {answer[:200]!r}")
        yield gateway


@contextmanager
def redis(place: Place) -> Iterator[None]:
    """An empty Redis, with room for what is written."""
    options = ["--save", "", "--appendonly", "no", "--dir", str(place.directory)]
    server = Running(
        ["redis-server", "--port", str(REDIS), "--bind", "127.0.0.1", *options],
        other_core(),
        place.directory / "redis.log",
    )
    try:
        subprocess.run(
            ["timeout", "10", "sh", "-c", f"until redis-cli -p {REDIS} ping; do sleep 0.1; done"],
            check=True,
            capture_output=True,
        )
        yield
    finally:
        server.stop()


def other_core() -> int:
    return 1 if (os.cpu_count() or 1) > 1 else 0


_LUA = """local requests = {}
for line in io.lines("%s") do
  requests[#requests + 1] = wrk.format("POST", "/v1/embeddings", {
    ["Host"] = "localhost", ["Content-Type"] = "application/json",
    ["Authorization"] = "Bearer %s"}, line)
end
local at = 0
request = function()
  at = at %% #requests + 1
  return requests[at]
end
"""


def load(
    place: Place,
    bodies: Sequence[bytes],
    seconds: float,
    *,
    key: str = "none",
    connections: int = CONNECTIONS,
    repeated: bool = False,
) -> Numbers:
    """Ask one after the other on every connection, as fast as it goes.

    Raises RuntimeError when there were too few requests, unless they may be `repeated`.
    """
    lines, script = place.directory / "bodies", place.directory / "load.lua"
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    script.write_text((_LUA + RESULT_LUA) % (lines, key))
    pinned = ["taskset", "-c", str(other_core()), "wrk", "-t1", f"-c{connections}"]
    output = subprocess.run(
        [
            *(*pinned, f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(script)),
            f"http://127.0.0.1:{PORT}/v1/embeddings",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None:
        raise RuntimeError(output)
    requests, micros, p50, p99, errors = map(int, found.groups())
    if not repeated:
        check_enough(len(bodies), asked=requests + connections)
    return {
        "texts_per_s": requests / micros * 1e6,
        "p50_ms": p50 / 1e3,
        "p99_ms": p99 / 1e3,
        "errors": float(errors),
        "requests": float(requests),
    }


def check_enough(prepared: int, *, asked: int) -> None:
    """Raise RuntimeError when requests were asked twice: what was new would be a hit then."""
    if asked > prepared:
        raise RuntimeError(
            f"{asked} requests were asked and {prepared} were prepared: the hit rate is not what "
            "it should be. Raise PREPARED_PER_S."
        )


def computed() -> int:
    """Tokens that the replicas have computed so far."""
    total = 0
    for port in REPLICAS:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/tokens") as answer:
            total += int(answer.read())
    return total


def warm(gateway: Running) -> None:
    """Let a contender learn the known questions."""
    url, asked = f"http://127.0.0.1:{PORT}/v1/embeddings", known()
    for start in range(0, len(asked), 64):
        gateway.wait_until_it_answers(url, body(asked[start : start + 64]))


def tokens_of(contender: Contender, asked: Traffic, place: Place) -> float:
    """Tokens of a question as the replicas count them, on average."""
    if contender.tokens_are == "text":
        return sum(max(1, len(each) // 4) for each in asked.questions) / len(asked.questions)
    encoder = Encoder(describe(place.model))
    encoded = encoder.encode(asked.questions[:10_000], prompt="", truncate=Truncation.NONE)
    return sum(len(each.ids) for each in encoded) / len(encoded)


def at_every_rate(contender: Contender, place: Place, number: int) -> Iterator[tuple[str, Numbers]]:
    """One contender through all hit rates."""
    with running(contender, place) as gateway:
        if contender.name != "none":
            warm(gateway)
        for rate in RATES:
            count = WARM_UP + round(PREPARED_PER_S * max(1.0, place.seconds))
            asked = traffic(rate, count, place.new, seed=1000 * number + round(100 * rate))
            bodies = [body(each) for each in asked.questions]
            load(place, bodies[:WARM_UP], 1, repeated=True)
            time.sleep(1)  # what a rival still computes of it is not this measurement's
            before, cpu_s = computed(), gateway.cpu_s
            seen = load(place, bodies[WARM_UP:], place.seconds)
            wanted = max(1.0, seen["requests"]) * tokens_of(contender, asked, place)
            seen["work_saved"] = 1 - (computed() - before) / wanted
            seen["cpu_us_per_text"] = (gateway.cpu_s - cpu_s) / max(1.0, seen["requests"]) * 1e6
            yield f"{rate:.0%}", seen


def hit_path(place: Place) -> Numbers:
    """One known text, asked with a key that has limits."""
    keys = place.directory / "keys.json"
    keys.unlink(missing_ok=True)
    limits = [
        word for name in ("tokens", "requests") for word in (f"--{name}-per-minute", "10" * 6)
    ]
    made = subprocess.run(
        [
            *(sys.executable, "-m", "embedfleet", "keys", "create", "--file", str(keys)),
            *("--name", "bench", *limits, "--concurrent-texts", "4096", "--model", "bench"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    key = next(word for word in made.stdout.split() if len(word) > 30)
    asked = [body("What is the capital of France, and how large is its metropolitan area today?")]
    with running(CONTENDERS["memory"], place, keys=keys) as gateway:
        wait_for_key(asked[0], key)
        load(place, asked, 1, key=key, connections=64, repeated=True)
        before, cpu_s = computed(), gateway.cpu_s
        seen = load(place, asked, place.seconds, key=key, connections=64, repeated=True)
        cpu_s = gateway.cpu_s - cpu_s
        seen["cpu_us_per_text"] = cpu_s / seen["requests"] * 1e6
        seen["core_busy"] = cpu_s * seen["texts_per_s"] / seen["requests"]
        seen["computed_tokens"] = float(computed() - before)
    return seen


def wait_for_key(asked: bytes, key: str) -> None:
    """Until the gateway has found its replicas."""
    command = ["curl", "-sf", "--retry", "60", "--retry-delay", "1", "--retry-all-errors"]
    command += ["-H", f"authorization: Bearer {key}", "-H", "content-type: application/json"]
    url = f"http://127.0.0.1:{PORT}/v1/embeddings"
    subprocess.run([*command, "-d", asked.decode(), "-o", os.devnull, url], check=True)


def part(name: str, *words: str, python: str = sys.executable) -> Any:
    """A measurement of `cache_parts.py`, on the first core."""
    output = subprocess.run(
        ["taskset", "-c", "0", python, "-m", "benchmarks.cache_parts", name, *words],
        check=True,
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=os.environ | {"PYTHONPATH": str(HERE.parent / "src")},
    ).stdout
    return json.loads(output)


def parts(chosen: str, place: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "p" in chosen:
        with redis(place):
            found["64 texts from redis"] = part("redis", str(REDIS))
    if "m" in chosen:
        found["memory"] = part("memory")
    if "a" in chosen:
        try:
            python = str(environment("theine", ["theine", "numpy"]) / "python")
        except NotHereError:
            python = sys.executable
        found["admission"] = part("admission", python=python)
    for name, numbers in found.items():
        print(f"{name}: {json.dumps(numbers)}", flush=True)
    return found


def shown(name: str, numbers: Numbers) -> str:
    return f"{name:22s} " + "  ".join(f"{key} {value:,.4g}" for key, value in numbers.items())


def medians(rounds: list[Numbers]) -> Numbers:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def installed(names: Sequence[str]) -> list[Contender]:
    """The contenders that can run here; for each of the others, say why it can't."""
    here = []
    for name in names:
        try:
            if CONTENDERS[name].redis:
                debian("redis-server", program="redis-server")
            if name == "litellm":
                environment("litellm", ["litellm[proxy]", "httptools", "redis"])
        except NotHereError as error:
            print(f"{name} is left out: {error}", flush=True)
        else:
            here.append(CONTENDERS[name])
    return here


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what embedfleet's cache gives")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--only", default="hplma", help="letters of what to measure")
    parser.add_argument("--name", default="cache", help="of the files of results")
    return parser.parse_args()


def measured(chosen: argparse.Namespace, place: Place) -> dict[str, dict[str, list[Numbers]]]:
    """Every round: contenders take turns, so that whatever else the machine does meets all."""
    found: dict[str, dict[str, list[Numbers]]] = {}
    here = installed(chosen.contenders.split(",")) if "l" in chosen.only else []
    for number in range(chosen.rounds):
        if "h" in chosen.only:
            seen = hit_path(place)
            found.setdefault("hit path", {}).setdefault("memory, keys", []).append(seen)
            print(shown("hit path", seen), flush=True)
        for contender in here:
            for rate, seen in at_every_rate(contender, place, number):
                found.setdefault(rate, {}).setdefault(contender.name, []).append(seen)
                print(shown(f"{rate} {contender.name}", seen), flush=True)
    return found


def main() -> None:
    chosen = options()
    debian("wrk", program="wrk")
    with tempfile.TemporaryDirectory(prefix="cache-benchmark-") as scratch:
        directory = Path(scratch)
        write_model(directory / "model", 1024)
        place = Place(directory, directory / "model", chosen.seconds)
        rounds = measured(chosen, place)
        middle = {
            measure: {name: medians(each) for name, each in seen.items()}
            for measure, seen in rounds.items()
        }
        report = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": " ".join(["python -m benchmarks.cache", *sys.argv[1:]]),
            "machine": machine(),
            "medians": middle,
            "parts": parts(chosen.only, place),
            "rounds": rounds,
        }
    print("\nMedians")
    for measure, seen in middle.items():
        for name, numbers in seen.items():
            print(shown(f"{measure} {name}", numbers))
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{chosen.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    if "l" in chosen.only:
        plot(report, folder / f"{chosen.name}.png")


if __name__ == "__main__":
    main()
