"""`kill -9` at any moment, against a real fleet: the result is that of a run that nothing ended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from random import Random

import pytest

from tests.bulk.making import json_lines, tree
from tests.service import Service, started

pytestmark = pytest.mark.slow

KILLS = 6
DISTINCT = 6_000


def corpus(path: Path) -> Path:
    words = ("river", "stone", "window", "garden", "market", "letter", "engine", "winter")
    rng = Random(1)
    texts = [f"{n} {' '.join(rng.choices(words, k=rng.randint(3, 30)))}" for n in range(DISTINCT)]
    rows = [{"text": text, "n": at} for at, text in enumerate([*texts, *texts[::7]])]
    return json_lines(path, rows)


def begun(source: Path, out: Path, service: Service) -> subprocess.Popen[bytes]:
    words = [str(source), str(out), "--url", service.root, "--fragment-rows", "400"]
    return subprocess.Popen(
        [sys.executable, "-m", "embedfleet", "bulk", *words, "--format", "jsonl", "--json"],
        stdout=subprocess.DEVNULL,
    )


def computed(service: Service) -> int:
    """Texts that the engine of the only replica computed so far, golden ones included."""
    (replica,) = service.fleet()
    with urllib.request.urlopen(f"{replica['url']}/metrics", timeout=60) as answer:  # noqa: S310
        text = answer.read().decode()
    counts = re.findall(r"^embedfleet_replica_texts_total\{[^}]*\} (\S+)", text, re.MULTILINE)
    return round(sum(map(float, counts)))


def test_kills_cost_no_row_and_compute_nearly_nothing_twice(tmp_path: Path) -> None:
    source, out = corpus(tmp_path / "in.jsonl"), tmp_path / "out"
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "1"]) as service:
        assert begun(source, tmp_path / "whole", service).wait(180) == 0
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "1"]) as service:
        rng, killed, first = Random(2), 0, computed(service)
        while True:
            process, known = begun(source, out, service), computed(service)
            enough = known + rng.randint(1, DISTINCT // (2 * KILLS))  # any moment will do
            deadline = time.monotonic() + 180
            while process.poll() is None and computed(service) < enough:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            if killed == KILLS or process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            killed += 1
        assert process.wait(180) == 0
        again = computed(service) - first
    assert killed >= 3
    assert tree(out) == tree(tmp_path / "whole")
    assert again <= DISTINCT * 1.01, f"{killed} kills"
