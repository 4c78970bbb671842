"""From an order to the first traffic: waking a standby replica beside a cold start.

    python -m benchmarks.standby [--rounds 5] [--geometry 0.6b --checkpoint DIR] [--dtype int8]

Starts `embedfleet serve` with one replica and lets the number go from one to two and back, by hand,
so many times: once with a replica on standby, once without. Times are the gateway's own
(`embedfleet_replica_start_seconds`). A model is the one that ships, or a checkpoint directory
(random weights do: nothing here depends on them), which gets the tokenizer of the one that ships.
Files are in the page cache after the first start, so a cold start here is a warm disk's.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from embedfleet.runtime.machine import usable_processors

RESULTS = Path(__file__).parent / "results"
BANNER = re.compile(r"fleet and metrics: (http://[^)]+)\)")
LONG_S = 600.0


def model_of(checkpoint: Path, scratch: Path) -> Path:
    """A checkpoint as a model directory, with a tokenizer."""
    directory = scratch / "model"
    directory.mkdir()
    for file in checkpoint.iterdir():
        (directory / file.name).symlink_to(file.resolve())
    if not (directory / "tokenizer.json").exists():
        source = files("embedfleet") / "models" / "builtin" / "tokenizer.json"
        (directory / "tokenizer.json").write_bytes(source.read_bytes())
    return directory


@contextmanager
def service(model: str, standby: int, dtype: str, scratch: Path) -> Iterator[str]:
    """A running service with one replica; its admin address."""
    config = scratch / f"standby-{standby}.toml"
    config.write_text(f"[admin]\nport = 0\n[autoscaling]\nstandby = {standby}\ntick_s = 0.5\n")
    words = ["serve", model, "--min-replicas", "1", "--max-replicas", "2", "--port", "0"]
    with (scratch / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "embedfleet", *words, "--dtype", dtype, "--config", config],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None  # noqa: S101  for the type checker; a pipe was asked for
        found = BANNER.search(process.stdout.readline())
        if found is None:
            raise SystemExit((scratch / "log").read_text())
        try:
            yield found[1]
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


def ask(url: str, order: dict[str, Any] | None = None) -> str:
    """The answer of an admin route."""
    content = None if order is None else json.dumps(order).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, content, headers)  # noqa: S310  our own service
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        text: str = answer.read().decode()
        return text


def started(admin: str, came_from: str) -> tuple[int, float]:
    """How many replicas got traffic so far, and after how many seconds in all."""
    labels = re.escape(f'{{came_from="{came_from}",pool="')
    text = ask(f"{admin}/metrics")
    values = []
    for kind in ("count", "sum"):
        line = rf"^embedfleet_replica_start_seconds_{kind}{labels}.*\}} (\S+)$"
        found = re.search(line, text, re.MULTILINE)
        values.append(float(found[1]) if found else 0.0)
    return round(values[0]), values[1]


def until(admin: str, states: list[str]) -> None:
    """Wait for the replicas to be in these states, in any order."""
    deadline = time.monotonic() + LONG_S
    while True:
        replicas = json.loads(ask(f"{admin}/fleet"))["pools"][0]["replicas"]
        if sorted(each["state"] for each in replicas) == sorted(states):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"replicas are {replicas}, not {states}")
        time.sleep(0.05)


def measure(admin: str, came_from: str, idle: list[str], rounds: int) -> list[float]:
    """Seconds from one replica to two, each time."""
    taken = []
    for _ in range(rounds):
        until(admin, idle)
        _, before_s = started(admin, came_from)
        ask(f"{admin}/autoscaling/scale", {"replicas": 2})
        until(admin, ["ready", "ready"])
        taken.append(started(admin, came_from)[1] - before_s)
        ask(f"{admin}/autoscaling/scale", {"replicas": 1})
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--geometry", default="builtin", help="how the result is called")
    parser.add_argument("--checkpoint", type=Path, help="directory of a checkpoint")
    parser.add_argument("--dtype", default="int8")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = "builtin"
        if options.checkpoint is not None:
            model = str(model_of(options.checkpoint, scratch))
        for name, standby, came_from, idle in (
            ("cold start", 0, "start", ["ready"]),
            ("wake-up", 1, "standby", ["ready", "standby"]),
        ):
            with service(model, standby, options.dtype, scratch) as admin:
                found[name] = measure(admin, came_from, idle, options.rounds)
                shown = ", ".join(f"{each:.2f}" for each in found[name])
                print(f"{name:10} median {statistics.median(found[name]):6.2f} s   ({shown})")
    ratio = statistics.median(found["cold start"]) / statistics.median(found["wake-up"])
    print(f"waking is {ratio:.0f} times as quick")
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.standby", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {usable_processors()} processors",
        "dtype": options.dtype,
        "seconds": found,
    }
    file = RESULTS / f"standby-{options.geometry}.json"
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
