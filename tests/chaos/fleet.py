"""A gateway process in front of replica processes that misbehave."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.replica_process import count_file
from tests.fakes.revealing_engine import WIDTH
from tests.ports import free_port
from tests.processes import living_children
from tests.service import BANNER, Service
from tests.small_tokenizer import write_model

CONFIG = """\
[admin]
port = 0
[gateway]
request_timeout_s = 60
[fleet]
probe_interval_s = 0.2
probe_timeout_s = 1
connect_timeout_s = 1
[cache]
memory_mib = 4
"""
START_TIMEOUT_S = 120.0
ROOT = Path(__file__).parents[2]


@dataclass
class ChaosReplica:
    """One replica process and the parent that brings it back."""

    directory: Path
    seed: int
    stderr: str
    port: int = field(default_factory=free_port)
    parent: subprocess.Popen[bytes] | None = None

    def start(self, probability: float = 0.0, faults: tuple[str, ...] = ()) -> None:
        orders = [str(probability), ",".join(faults)] if faults else []
        arguments = [str(self.directory), str(self.port), str(self.seed), *orders]
        with Path(self.stderr).open("ab") as sink:
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.replica_process", *arguments],
                stderr=sink,
                cwd=ROOT,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def misbehave(self, probability: float, *faults: str) -> None:
        """Let so many of its frames go wrong from now on; returns once it knows."""
        self._command(f"probability={probability}&faults={','.join(faults)}")

    def nest(self, lists: int) -> None:
        """Let it describe itself by so many lists in each other; 0 for itself again."""
        self._command(f"nested={lists}")

    def _command(self, query: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/chaos?{query}", timeout=20).close()  # noqa: S310
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def hang(self, seconds: float) -> bool:
        """Let its engine hang for so long while its HTTP server lives; whether it does. It does not
        if it was killed just now, which a gateway without calls to it may not have noticed.
        """
        query = f"{self.url}/chaos?hang={seconds}"
        try:
            urllib.request.urlopen(query, timeout=60).close()  # noqa: S310
        except OSError:
            return False
        return True

    def hang_a_while(self) -> None:
        """Let its engine hang for four seconds."""
        self.hang(4.0)

    @property
    def computed(self) -> int:
        """Texts that its engines have computed, in all of its processes."""
        return int.from_bytes(count_file(self.directory, self.port).read_bytes(), "little")

    def kill(self) -> None:
        """Kill -9 the serving process; it comes back at once."""
        self._signal(signal.SIGUSR1)

    def freeze(self) -> None:
        """Kill -STOP it for two seconds."""
        self._signal(signal.SIGUSR2)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Kill -STOP it for as long as the block lasts."""
        serving = self.serving
        assert serving is not None
        serving.suspend()
        try:
            yield
        finally:
            serving.resume()

    @property
    def serving(self) -> psutil.Process | None:
        """The process that serves now; none while the next one is started."""
        if self.parent is None:
            return None
        return next(iter(living_children(self.parent.pid)), None)

    def stop(self) -> None:
        """End it for good."""
        if self.parent is not None:
            self.parent.terminate()
            self.parent.wait(60)
            self.parent = None

    def _signal(self, number: signal.Signals) -> None:
        if self.parent is not None:
            self.parent.send_signal(number)


@dataclass
class ChaosFleet:
    """What a test of this folder works with."""

    service: Service
    replicas: list[ChaosReplica]

    @property
    def gateway_mib(self) -> float:
        """Memory that the gateway holds."""
        held: int = psutil.Process(self.service.process.pid).memory_info().rss
        return held / 2**20

    def misbehave(self, probability: float, *faults: str) -> None:
        for replica in self.replicas:
            replica.misbehave(probability, *faults)


@contextlib.contextmanager
def chaos_fleet(
    scratch: Path,
    *,
    replicas: int = 3,
    stderr: str = "",
    config: str = CONFIG,
    change: Callable[[Path], object] = lambda _: None,
) -> Iterator[ChaosFleet]:
    """Replicas and the gateway in front of them, all ready; `stderr` is where all logs go. `change`
    is given the model's directory before anything starts.
    """
    directory = write_model(scratch / "chaos", vocab_size=1000, hidden_size=WIDTH)
    change(directory)
    settings = scratch / "gateway.toml"
    settings.write_text(config)
    log = Path(stderr or scratch / "gateway.log")
    with contextlib.ExitStack() as stack:
        members = []
        for number in range(replicas):
            sink = stderr or str(scratch / f"replica-{number}.log")
            members.append(ChaosReplica(directory, number, sink))
            stack.callback(members[-1].stop)
            members[-1].start()
        yield ChaosFleet(stack.enter_context(gateway(settings, members, log)), members)


@contextlib.contextmanager
def gateway(settings: Path, replicas: Sequence[ChaosReplica], log: Path) -> Iterator[Service]:
    """One in front of these replicas, which are all ready."""
    urls = [word for each in replicas for word in ("--replica", each.url)]
    command = [sys.executable, "-m", "embedfleet", "gateway", "--port", "0"]
    with log.open("w") as sink_file:
        process = subprocess.Popen(
            [*command, "--config", str(settings), *urls],
            stdout=subprocess.PIPE,
            stderr=sink_file,
            text=True,
        )
    try:
        root, admin = _banner(process)
        service = Service(process, root, admin, log)
        service.wait_for(["ready"] * len(replicas), START_TIMEOUT_S)
        yield service
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(60)
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()


def _banner(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(START_TIMEOUT_S):
            found = BANNER.search(process.stdout.readline())
            if found:
                return found[1], found[2]
    raise TimeoutError("the gateway did not start")
