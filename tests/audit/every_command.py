"""Runs every command of embedfleet where whatever leaves the machine is seen.

Started as `unshare -rn python -m tests.audit.every_command PLACE` it is alone on its network:
every address is one of its own, so packets to anybody arrive and are noted, whether Python
sent them or a library in C. Without a network of its own it does the same and notes no packets.
Each process has the audit hook of this folder, an empty home and no variable of CI. What was seen
is written to PLACE/seen.json.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep

from tests.models.fake_hub import REPOSITORY, FakeHub, serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_TIMEOUT_S = 120.0
SOMEBODY = "192.0.2.1"
"""Of a network for documentation: nobody has it."""
IPV4, IPV6 = 0x0800, 0x86DD
FOUND = re.compile(r"at (http://[\d.]+:\d+)/v1 \(fleet and metrics: (http://[\d.]+:\d+)\)")
REPLICA = re.compile(r"http://[\d.]+:\d+")
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{second:02d}.0000000,{100 + second},1\n" for second in range(30)
)


class Packets:
    """Addresses beyond this machine to which something was sent: everything is loopback here."""

    def __init__(self) -> None:
        for words in (
            ["link", "set", "lo", "up"],
            ["route", "add", "local", "default", "dev", "lo"],
        ):
            subprocess.run(["ip", *words], check=True)
        subprocess.run(
            ["ip", "-6", "route", "add", "local", "default", "dev", "lo"],
            check=False,  # there are machines without IPv6
        )
        self.seen: set[str] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind(("lo", 0))
        threading.Thread(target=self._look, daemon=True).start()
        self._try()

    def _try(self) -> None:
        """One packet on purpose is seen."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sent:
            sent.sendto(b"", (SOMEBODY, 9))
        deadline = monotonic() + START_TIMEOUT_S
        while SOMEBODY not in self.seen:
            assert monotonic() < deadline, "packets are not seen"
            sleep(0.01)
        self.seen.discard(SOMEBODY)

    def _look(self) -> None:
        while True:
            packet = self._socket.recv(65_535)
            kind = int.from_bytes(packet[12:14])
            at = {IPV4: slice(30, 34), IPV6: slice(38, 54)}.get(kind)
            if at is None or len(packet) < at.stop:
                continue
            address = ipaddress.ip_address(packet[at])
            # Neighbours are looked for by the system itself, at addresses of all of a link.
            if not address.is_loopback and not address.is_multicast:
                self.seen.add(str(address))


class Machine:
    """Where the commands run: what they are given, and what they may write to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home, self.temporary, self.here = (place / name for name in ("home", "tmp", "cwd"))
        for each in (self.home, self.temporary, self.here):
            each.mkdir()
        self.log = place / "audit"
        self.around = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AUDIT_LOG": str(self.log),
        }
        self.codes: dict[str, int] = {}
        self.outputs: dict[str, str] = {}

    def run(self, words: str, *more: str, **variables: str) -> str:
        """Run a command to its end; `words` name it in what is reported."""
        done = subprocess.run(
            [sys.executable, "-m", "embedfleet", *words.split(), *more],
            cwd=self.here,
            env=self.around | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.codes[words] = done.returncode
        self.outputs[words] = (done.stdout + done.stderr)[-2_000:]
        return done.stdout

    @contextlib.contextmanager
    def running(self, words: str, found: re.Pattern[str], *more: str) -> Iterator[Sequence[str]]:
        """Run a command until the end of the block; gives the addresses that it said."""
        log = self.place / f"{words.split(maxsplit=1)[0]}-{len(self.codes)}.log"
        with log.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "embedfleet", *words.split(), *more],
                cwd=self.here,
                env=self.around,
                stdout=sink,
                stderr=sink,
            )
        try:
            yield self._addresses(process, log, found)
        finally:
            process.send_signal(signal.SIGTERM)
            self.codes[words] = process.wait(180)
            self.outputs[words] = log.read_text()[-2_000:]

    def _addresses(
        self, process: subprocess.Popen[bytes], log: Path, found: re.Pattern[str]
    ) -> Sequence[str]:
        deadline = monotonic() + START_TIMEOUT_S
        while not (seen := found.search(log.read_text())):
            if monotonic() > deadline or process.poll() is not None:
                raise TimeoutError(f"it does not start:\n{log.read_text()}")
            sleep(0.1)
        return seen.groups() or (seen[0],)


def until_ready(url: str) -> None:
    deadline = monotonic() + START_TIMEOUT_S
    while monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health/ready", timeout=5).close()  # noqa: S310
            return
        sleep(0.1)
    raise TimeoutError(f"{url} does not become ready")


def ask(url: str, texts: list[str]) -> None:
    body = json.dumps({"model": "builtin", "input": texts}).encode()
    told = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/embeddings", body, told)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
            json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


def files(machine: Machine) -> None:
    """Commands that read and write files, and compute."""
    keys = machine.place / "keys.json"
    machine.run("keys create", "--file", str(keys), "--name", "search")
    (known,) = json.loads(machine.run("keys list", "--json", "--file", str(keys)))
    machine.run("keys revoke", "--file", str(keys), known["id"])
    machine.run("--version")
    machine.run("config")
    machine.run("config --docs")
    machine.run("engines")
    machine.run("engines vllm")
    machine.run("plan --texts-per-day 50e6 --tokens 300 --p99 200")
    trace = machine.place / "trace.csv"
    trace.write_text(TRACE)
    machine.run("simulate", str(trace), "--policy", "embedfleet", "--max-replicas", "2")
    machine.run("golden make builtin", "-o", str(machine.place / "made.golden"))
    machine.run("model fetch builtin")
    image = "registry.example.com/embedfleet@sha256:" + "0" * 64
    output = str(machine.place / "deployment")
    machine.run("deploy kubernetes", "--model", "builtin", "--image", image, "--engine", "cpu",
                "-o", output)  # fmt: skip
    with serving(FakeHub({"config.json": b"{}", "tokenizer.json": b"{}"})) as hub:
        machine.run(
            f"model fetch {REPOSITORY}", HF_ENDPOINT=hub.endpoint, HF_HOME=str(machine.place / "hf")
        )


def served(machine: Machine) -> None:
    """`serve`, and every command that asks a running gateway."""
    settings = machine.place / "serve.toml"
    settings.write_text("[admin]\nport = 0\n[log]\naccess = true\n")
    flags = ["--port", "0", "--config", str(settings)]
    with machine.running("serve builtin --min-replicas 1 --max-replicas 2", FOUND, *flags) as found:
        url, admin = found
        ask(url, [f"Boat {n}." for n in range(50)])
        texts = machine.place / "texts.txt"
        texts.write_text("a\nb\n")
        machine.run("conformance", f"{url}/v1", "--only", "model")
        machine.run("status", "--admin", admin)
        machine.run("cache stats", "--admin", admin)
        machine.run("cache warm", str(texts), "--model", "builtin", "--admin", admin)
        machine.run("cache clear", "--admin", admin)
        machine.run("autoscale explain", "--admin", admin)
        machine.run("fleet drain local-0", "--force", "--admin", admin)
        machine.run("fleet readmit local-0", "--admin", admin)
        recording = str(machine.place / "recording.jsonl")
        machine.run("autoscale record", recording, "--hours", "0", "--admin", admin)
        machine.run("autoscale pause", "--admin", admin)
        machine.run("autoscale scale 2", "--admin", admin)
        machine.run("autoscale resume", "--admin", admin)
        corpus, vectors = machine.place / "corpus.jsonl", machine.place / "vectors"
        corpus.write_text('{"text": "a"}\n{"text": "b"}\n')
        machine.run("bulk plan", str(corpus), "--url", url)
        machine.run("bulk run", str(corpus), str(vectors), "--url", url)
        machine.run("bulk verify", str(corpus), str(vectors), "--url", url)


def apart(machine: Machine) -> None:
    """Replicas on each kind of kernels, and a gateway of two workers in front of them."""
    with contextlib.ExitStack() as stack:
        urls: list[str] = []
        for kernels in ("auto", *(["openvino"] if has_openvino() else []), "numpy"):
            settings = machine.place / f"{kernels}.toml"
            settings.write_text(f'[engine]\nkernels = "{kernels}"\n')
            flags = ["--port", "0", "--config", str(settings)]
            if kernels == "numpy":
                flags += ["--dtype", "f32"]
            words = f"replica builtin --max-tokens {512 + len(urls)}"
            (url,) = stack.enter_context(machine.running(words, REPLICA, *flags))
            until_ready(url)
            urls.append(url)
        settings = machine.place / "gateway.toml"
        settings.write_text("[admin]\nport = 0\n[gateway]\nworkers = 2\n")
        flags = ["--port", "0", "--config", str(settings)]
        flags += ["--replica", urls[0]]
        found = stack.enter_context(machine.running("gateway", FOUND, *flags))
        for turn in range(20):
            ask(found[0], [f"River {turn} and {n}." for n in range(4)])


def has_openvino() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415

    return find_spec("openvino") is not None


def main() -> None:
    place = Path(sys.argv[1])
    packets = Packets() if sys.argv[2:] == ["--alone"] else None
    machine = Machine(place)
    files(machine)
    served(machine)
    apart(machine)
    sleep(0.5)  # the last packets
    seen = {
        "packets": None if packets is None else sorted(packets.seen),
        "events": [json.loads(line)[1:] for line in machine.log.read_text().splitlines()],
        "home": sorted(str(path) for path in machine.home.rglob("*")),
        "here": sorted(str(path) for path in machine.here.rglob("*")),
        "temporary": sorted(str(path) for path in machine.temporary.rglob("*")),
        "codes": machine.codes,
        "outputs": machine.outputs,
    }
    (place / "seen.json").write_text(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
