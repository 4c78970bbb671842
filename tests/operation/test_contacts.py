"""Whom embedfleet contacts, and what it writes: nobody and nothing that was not configured."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from embedfleet.cli.command_line import app

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--map-root-user", "--net"]
WRITES = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate"}
DEVICES = ("/dev/", "/proc/self/", "/proc/thread-self/")


def can_be_alone() -> bool:
    """Whether a process can be given a network of its own."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Seen:
    """What all commands together did."""

    place: Path
    packets: list[str] | None
    events: list[tuple[str, Any]]
    home: list[str]
    here: list[str]
    temporary: list[str]
    codes: dict[str, int]
    outputs: dict[str, str]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    place = tmp_path_factory.mktemp("machine")
    alone = can_be_alone()
    words = [sys.executable, "-m", "tests.audit.every_command", str(place)]
    subprocess.run(
        [*ALONE, *words, "--alone"] if alone else words, cwd=ROOT, check=True, timeout=1800
    )
    return Seen(place, **json.loads((place / "seen.json").read_text()))


def leaves(command: Any, *names: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from leaves(below, *names, name)
    else:
        yield " ".join(names)


def test_every_command_was_run_and_none_failed(seen: Seen) -> None:
    run = [words.split() for words in seen.codes]
    missing = [
        leaf
        for leaf in leaves(typer.main.get_command(app))
        if not any(words[: len(leaf.split())] == leaf.split() for words in run)
    ]
    assert missing == []
    assert {words: seen.outputs[words] for words, code in seen.codes.items() if code} == {}


def test_no_packet_leaves_the_machine(seen: Seen) -> None:
    """Python's, and those of libraries in C of which Python knows nothing."""
    if seen.packets is None:
        pytest.skip("no network of its own is to be had here (unshare, ip)")
    assert seen.packets == []


def test_only_loopback_is_contacted_and_no_name_is_resolved(seen: Seen) -> None:
    asked = {
        what[0] if isinstance(what, list) else what
        for event, what in seen.events
        if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo"}
    }
    assert {each for each in asked if not on_this_machine(each)} == set()


def on_this_machine(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def test_nothing_is_written_but_what_was_asked_for_and_temporary_files(seen: Seen) -> None:
    """Not in the home, not in the working directory, not anywhere else; and nothing is left."""
    written = {
        what
        for event, what in seen.events
        if event in WRITES and isinstance(what, str) and Path(what).is_absolute()
    }
    elsewhere = {
        each
        for each in written
        if not each.startswith((f"{seen.place}/", *DEVICES)) and each != os.devnull
    }
    assert elsewhere == set()
    assert (seen.home, seen.here, seen.temporary) == ([], [], [])


def test_no_process_forks(seen: Seen) -> None:
    """A forked child has its parent's sockets and signal handlers; others are started anew."""
    assert [event for event, _ in seen.events if event in {"os.fork", "os.forkpty"}] == []
