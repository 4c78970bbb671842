"""Other processes, as a test sees them: any of them may end between two looks at it.

One that has ended and that nobody has waited for yet (a zombie) is as little alive as one that is
gone: the first process of a container may never collect it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil

PATIENCE_S = 60.0


def living_children(parent: int, *words: str, recursive: bool = False) -> list[psutil.Process]:
    """Children of a process whose command line contains all of these words.

    A command line is its arguments with a space between each two, so that "embedfleet replica" is
    not found in the path of a test about replicas. No children if the parent has ended.
    """
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(parent).children(recursive=recursive):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline())
                if all(word in line for word in words) and is_alive(child):
                    found.append(child)
    return found


def replicas_of(gateway: int) -> list[psutil.Process]:
    """Replicas that a gateway started on its machine."""
    return living_children(gateway, "embedfleet replica")


def with_descendants(pid: int) -> list[psutil.Process]:
    """A process that runs, and all that came of it."""
    return [psutil.Process(pid), *living_children(pid, recursive=True)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it is there still and has not ended."""
    try:
        ended = process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False
    return not ended and process.is_running()


def outliving(
    processes: Sequence[psutil.Process], patience_s: float = PATIENCE_S
) -> list[psutil.Process]:
    """Wait until these processes have ended; return those that have not even then."""
    deadline = time.monotonic() + patience_s
    while (left := [each for each in processes if is_alive(each)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def in_environment(name: str, value: str) -> list[psutil.Process]:
    """Living processes of this machine that were started with this variable."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # others' are none of our business
            if each.environ().get(name) == value and is_alive(each):
                found.append(each)
    return found
