"""What an engine takes of the machine while it computes."""

from __future__ import annotations

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
    """Samples of the memory beyond what there was at the start, in MiB; the last is of the end."""
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
        samples.append(anonymous_mib() - before)
