"""What an engine takes of the machine while it computes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def anonymous_mib() -> float:
    """Resident memory that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Samples of the memory beyond what there was at the start, in MiB; the last is of the end.

    What malloc holds free goes back before the start and before the end. Else, which tests ran
    before would decide how much of what is asked for is old memory, and how much of it stays.
    """
    trim = ctypes.CDLL(None).malloc_trim
    trim(0)
    before, stop = anonymous_mib(), threading.Event()
    samples = [0.0]

    def watch() -> None:
        while not stop.wait(0.02):
            samples.append(anonymous_mib() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        stop.set()
        watcher.join()
        trim(0)
        samples.append(anonymous_mib() - before)
