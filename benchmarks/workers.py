"""How the gateway's throughput grows with its processes (`gateway.workers`).

    python -m benchmarks.workers [--workers 1 2 4 8] [--rounds 3] [--seconds 8] [--source DIR]
                                 [-o FILE]

Emulated replicas that compute nothing (`gateway_replica.py`), wrk as the load. Each round goes
through all numbers of workers, so that whatever else the machine does meets all of them; medians
are reported, and the share of linear growth from one. `--source` names the `src` of another
version, whose single process takes part in every round. What the load alone can do is told beside:
wrk against `/health/live` of the largest gateway, the cheapest request there is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gateway import machine, write_model
from benchmarks.gateway_load import RESULT_LUA, texts_body

HERE = Path(__file__).parent
REPLICAS = 6
WIDTH = 1024
WARM_UP_S = 3.0
CONNECTIONS = 48
"""For each worker."""
TOKENS = 20

_LUA = """wrk.method = "%s"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
"""


def started(stack: ExitStack, command: list[str], pattern: str, source: Path | None = None) -> str:
    """Start a process, stop it at the end; what the pattern finds in its first lines."""
    environment = dict(os.environ)
    if source is not None:
        environment["PYTHONPATH"] = f"{source}:{environment.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(stop)
    for line in process.stdout or ():
        if found := re.search(pattern, line):
            return found[1]
    raise RuntimeError(f"{command} ended early")


def per_second(
    place: Path, url: str, method: str, body: str, *, connections: int, seconds: float, threads: int
) -> float:
    script = place / "load.lua"
    script.write_text((_LUA % (method, body)) + RESULT_LUA.replace("%%", "%"))
    output = subprocess.run(
        [
            "wrk",
            f"-t{threads}",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            url,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None or int(found[5]):
        raise RuntimeError(output)
    return int(found[1]) / (int(found[2]) / 1e6)


def gateway(
    stack: ExitStack, place: Path, model: Path, urls: list[str], workers: int, source: Path | None
) -> str:
    config = place / f"gateway-{workers}-{source is not None}.toml"
    several = f"workers = {workers}\n" if source is None else ""
    config.write_text(
        "[admin]\nport = 0\n[cache]\nmemory_mib = 0\n[gateway]\n"
        f'input_ids = "accept"\nport = 0\n{several}'
    )
    replicas = [word for url in urls for word in ("--replica", url)]
    command = [sys.executable, "-m", "embedfleet", "gateway", "--model", str(model)]
    command += ["--served-name", "bench", "--config", str(config), *replicas]
    url = started(stack, command, r"at (https?://\S+)/v1", source)
    time.sleep(WARM_UP_S)
    return url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--threads", type=int, default=3, help="of wrk")
    parser.add_argument("--replicas", type=int, default=REPLICAS)
    parser.add_argument("--source", type=Path, help="the src of another version")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    rounds: dict[str, list[float]] = {}
    bodies = {"1 text": texts_body(1, TOKENS).decode(), "16 texts": texts_body(16, TOKENS).decode()}
    with tempfile.TemporaryDirectory() as scratch:
        place, model = Path(scratch), Path(scratch) / "model"
        write_model(model, WIDTH)
        replica = [sys.executable, "-m", "benchmarks.gateway_replica", "--model", str(model)]
        with ExitStack() as fleet:
            urls = [
                started(fleet, [*replica, "--width", str(WIDTH), "--speed", "0"], r"(http://\S+)")
                for _ in range(given.replicas)
            ]
            turns = [(count, None) for count in given.workers]
            turns += [(1, given.source)] if given.source else []
            for number in range(given.rounds):
                for count, source in turns:
                    with ExitStack() as one:
                        url = gateway(one, place, model, urls, count, source)
                        name = f"{count}" if source is None else "before"
                        for title, body in bodies.items():
                            texts = int(title.split()[0])
                            rate = per_second(
                                place,
                                f"{url}/v1/embeddings",
                                "POST",
                                body,
                                connections=CONNECTIONS * count,
                                seconds=given.seconds,
                                threads=given.threads,
                            )
                            rounds.setdefault(f"{title}, {name}", []).append(rate * texts)
                            print(
                                f"round {number}: {title}, {name}: {rate * texts:,.0f} texts/s",
                                flush=True,
                            )
                        if count == max(given.workers) and source is None:
                            rate = per_second(
                                place,
                                f"{url}/health/live",
                                "GET",
                                "",
                                connections=CONNECTIONS * count,
                                seconds=3,
                                threads=given.threads,
                            )
                            rounds.setdefault("load alone", []).append(rate)
                            print(f"load alone: {rate:,.0f} requests/s", flush=True)
    medians = {name: round(statistics.median(each)) for name, each in rounds.items()}
    linear = {
        f"{title}, {count}": round(medians[f"{title}, {count}"] / count / medians[f"{title}, 1"], 3)
        for title in bodies
        for count in given.workers
    }
    result = {"machine": machine(), "texts_per_s": medians, "of_linear": linear, "rounds": rounds}
    print(json.dumps(result["texts_per_s"] | {"of linear": linear}, indent=1))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
