"""What becomes of accepted requests and of processes when a service is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import aiohttp
import psutil
import pytest

from embedfleet.transport.serving.servers import REPEAT_S
from tests.processes import (
    in_environment,
    living_children,
    outliving,
    replicas_of,
    with_descendants,
)
from tests.service import START_TIMEOUT_S, Service, started

pytestmark = pytest.mark.slow
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


async def ask(session: aiohttp.ClientSession, service: Service, number: int) -> int:
    texts = [f"{number} {each} " + " ".join(WORDS * 30) for each in range(6)]
    body = {"model": "builtin", "input": texts, "truncate": True}
    async with session.post(f"{service.base_url}/embeddings", json=body) as answer:
        await answer.read()
        return answer.status


def arrived(service: Service) -> float:
    """Requests that are answered or being answered."""
    return service.measured("requests_total{.*}") + service.measured("active_requests")


def drains(service: Service) -> bool:
    return ": draining" in service.log.read_text()


async def statuses(
    service: Service,
    signals: Sequence[tuple[int, bool]],
    count: int = 24,
    *,
    stuck: bool = False,
) -> list[int]:
    """Of requests of which one is answered and all have come in when the first signal comes; the
    next one comes once the gateway drains, late enough to be another order. The replicas can be
    stuck from the second request on.
    """
    replicas = replicas_of(service.process.pid) if stuck else []
    processes = with_descendants(service.process.pid)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        first = await ask(session, service, 0)
        for each in replicas:
            each.suspend()
        asked = [asyncio.create_task(ask(session, service, each)) for each in range(1, count)]
        until = service.until
        await asyncio.to_thread(until, "all requests", lambda: arrived(service) >= count)
        for number, to_all in signals:
            await asyncio.sleep(REPEAT_S)
            for each in processes if to_all else processes[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)
            await asyncio.to_thread(until, "a drain", lambda: drains(service))
        others = await asyncio.gather(*asked)
        for each in replicas:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()
        return [first, *others]


@pytest.mark.parametrize("to_all", [False, True], ids=["the gateway", "all processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_costs_no_accepted_request_and_leaves_no_process(
    tmp_path: Path, number: int, to_all: bool
) -> None:
    """Replicas obey their gateway, whoever else gets the signal."""
    words, settings = ["--replicas", "2"], "[gateway]\ndrain_timeout_s = 300\n"
    with started("builtin", log=tmp_path / "log", arguments=words, settings=settings) as service:
        children = living_children(service.process.pid)
        found = asyncio.run(statuses(service, [(number, to_all)]))
        assert set(found) == {200}
        assert service.process.wait(120) == 0
        assert outliving(children) == []
    log = service.log.read_text()
    assert "restarting it in" not in log
    assert "WARNING" not in log.partition(": draining")[2], "that replicas end is no trouble"


def test_a_second_signal_answers_what_is_left_with_503_and_stops_at_once(tmp_path: Path) -> None:
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "1"]) as service:
        children = living_children(service.process.pid)
        twice = [(signal.SIGTERM, False), (signal.SIGTERM, False)]
        found = asyncio.run(statuses(service, twice, stuck=True))
        assert found == [200] + [503] * (len(found) - 1)
        assert service.process.wait(120) == 0
        assert outliving(children) == []


def test_what_the_drain_time_out_cuts_is_answered_503(tmp_path: Path) -> None:
    with started(
        "builtin",
        log=tmp_path / "log",
        arguments=["--replicas", "1"],
        settings="[gateway]\ndrain_timeout_s = 1\n",
    ) as service:
        found = asyncio.run(statuses(service, [(signal.SIGTERM, False)], stuck=True))
        assert found == [200] + [503] * (len(found) - 1)
        assert service.process.wait(120) == 0


def test_no_replica_outlives_a_gateway_that_is_killed(tmp_path: Path) -> None:
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "2"]) as service:
        children = living_children(service.process.pid)
        service.process.kill()
        service.process.wait(120)
        assert outliving(children) == []


def test_a_replica_is_started_again_when_files_of_the_gateway_were_cleaned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaners of /tmp take what is ten days old."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with started("builtin", log=tmp_path / "log", arguments=["--replicas", "2"]) as service:
        for left in temporary.iterdir():
            left.rmdir()
        replicas_of(service.process.pid)[0].kill()
        service.until("a restart", lambda: service.measured("replica_restarts_total{.*}") > 0)
        service.wait_for(["ready", "ready"])


def _hears_hangups() -> None:
    """Under nohup the tests ignore SIGHUP, and so would whatever they start."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Start:
    """A `serve` that is being started, and every process that comes of it."""

    def __init__(self, place: Path, *before: str) -> None:
        self.mark = uuid4().hex
        self.log = place / f"{self.mark}.log"
        words = ["serve", "builtin", "--port", "0", "--admin-port", "0", "--replicas", "2"]
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "embedfleet", *words],
                env=os.environ | {"MARK_OF_A_TEST": self.mark},
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_hears_hangups,  # noqa: PLW1509 - no threads here take locks it needs
            )

    def is_ours(self) -> None:
        """Wait until it is embedfleet, no longer Python alone, that takes signals."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._caught() >> (signal.SIGTERM - 1) & 1:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)

    def _caught(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (caught,) = re.findall(r"SigCgt:\s*([0-9a-f]+)", status)
        return int(caught, 16)

    def says(self, text: str) -> None:
        """Wait for a line."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def alive(self) -> list[psutil.Process]:
        return in_environment("MARK_OF_A_TEST", self.mark)

    def ends_quietly(self, *also: int) -> None:
        """With an exit code that says why, without a traceback, and everything with it."""
        try:
            code = self.process.wait(120)
            assert code in {0, 130, 143, *also}, self.log.read_text()
            assert "Traceback" not in self.log.read_text()
            deadline = time.monotonic() + 120
            while self.alive():
                assert time.monotonic() < deadline, "processes are left"
                time.sleep(0.1)
        finally:
            for each in self.alive():
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_at_any_moment_of_it(
    tmp_path: Path, number: int, delay_s: float
) -> None:
    """Also while Python still imports. The delays are moments to try, not times to keep."""
    start = Start(tmp_path)
    start.is_ours()
    time.sleep(delay_s)
    os.killpg(start.process.pid, number)
    start.ends_quietly()


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.5])
def test_a_repeated_ctrl_c_prints_no_traceback(tmp_path: Path, pause_s: float) -> None:
    start = Start(tmp_path)
    start.says("listening on")
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(start.process.pid, signal.SIGINT)
        time.sleep(pause_s)
    # The last may meet an interpreter that has stopped and is ending: it has no handlers any more,
    # and the kernel ends it. Shells call that 130, too.
    start.ends_quietly(-signal.SIGINT)


AT_A_TERMINAL = (
    "import os, sys; main, other = os.openpty(); os.set_inheritable(main, True); "
    "os.dup2(other, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def test_a_terminal_that_hangs_up_drains_as_the_other_signals_do(tmp_path: Path) -> None:
    """The shell sends it and so does the kernel: the second one hurries nothing."""
    start = Start(tmp_path, sys.executable, "-c", AT_A_TERMINAL)
    start.says("embedfleet serves")
    start.process.send_signal(signal.SIGHUP)
    start.says("SIGHUP: draining")
    with contextlib.suppress(ProcessLookupError):
        os.kill(start.process.pid, signal.SIGHUP)
    start.ends_quietly()
    assert start.process.returncode == 0
    assert "at once" not in start.log.read_text()


def test_a_hangup_without_a_terminal_stops_nothing(tmp_path: Path) -> None:
    """Operators send it to have files read again."""
    start = Start(tmp_path)
    start.says("embedfleet serves")
    for each in start.alive():
        each.send_signal(signal.SIGHUP)
    start.says("SIGHUP: key and certificate files are watched")
    assert start.process.poll() is None
    assert len(replicas_of(start.process.pid)) == 2
    start.process.send_signal(signal.SIGTERM)
    start.ends_quietly()
    assert "restarting it in" not in start.log.read_text()


def test_a_hangup_without_a_terminal_stops_no_start(tmp_path: Path) -> None:
    """A unit may be reloaded as soon as it is started."""
    start = Start(tmp_path)
    start.is_ours()
    while "embedfleet serves" not in start.log.read_text():
        start.process.send_signal(signal.SIGHUP)
        assert start.process.poll() is None, start.log.read_text()
        time.sleep(0.05)
    start.process.send_signal(signal.SIGTERM)
    start.ends_quietly()


def test_a_signal_while_replicas_are_started_again_ends_all_of_them(tmp_path: Path) -> None:
    start = Start(tmp_path)
    start.says("embedfleet serves")
    for child in replicas_of(start.process.pid):
        child.kill()
    start.says("restarting it in")
    time.sleep(0.7)  # while they import
    os.killpg(start.process.pid, signal.SIGTERM)
    start.ends_quietly()


def test_as_process_1_of_a_container_it_obeys_and_collects_orphans(tmp_path: Path) -> None:
    inside = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process numbers of its own are to be had here (unshare)")
    start = Start(tmp_path, *inside)
    start.says("embedfleet serves")
    (first,) = living_children(start.process.pid)
    replicas = {each.pid for each in first.children()}
    assert len(replicas) == 2
    enter = ["nsenter", "--target", str(first.pid), "--user", "--pid", "--preserve-credentials"]
    subprocess.run([*enter, "sh", "-c", "sleep 0.1 &"], check=True)
    deadline = time.monotonic() + 60
    while (left := {each.pid for each in first.children()}) != replicas:
        assert time.monotonic() < deadline, f"what has ended is not collected: {left - replicas}"
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    start.ends_quietly()
