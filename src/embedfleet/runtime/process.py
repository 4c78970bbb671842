"""Process-level set-up: interpreters of our own, open files and files in memory, the garbage
collector and the heap, and reaping of orphaned children.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterable

import psutil

from embedfleet.vocabulary import SetupError

log = logging.getLogger(__name__)

REAP_S = 5.0
"""How often the first process of a container looks for orphans that ended."""

LEAST_DESCRIPTORS = 64
"""What a process needs for itself: sockets, pipes of replicas, files of libraries."""

TRIM_LOOK_S = 10.0
"""How often a server looks whether its heap holds much memory that was freed."""

TRIM_BYTES = 64 << 20
"""A heap is trimmed for so much: it takes a quarter of a millisecond for each MiB, in which nothing
can be allocated."""

KEPT_SHARE = 8
"""An eighth of the descriptors is kept for replicas, Redis, files and libraries."""


def interpreter(*words: str) -> list[str]:
    """The command line of another interpreter such as this one. It does not look for modules in the
    working directory, which may hold an unrelated `types.py` or `queue.py`.
    """
    return [sys.executable, "-P", *words]


def file_in_memory(name: str, content: bytes = b"", size: int = 0) -> int:
    """The descriptor of a file that no disk holds and that this user alone may open, of at least
    `size` bytes. Raises OSError with a file name.
    """
    shown = f"a file in memory ({name})"
    try:
        descriptor = os.memfd_create(name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, shown) from error
    try:
        os.fchmod(descriptor, 0o600)
        rest = memoryview(content)
        while rest:  # a limit of the size of files (ulimit -f) cuts the first write short
            rest = rest[os.write(descriptor, rest) :]
        os.ftruncate(descriptor, max(size, len(content)))
    except OSError as error:
        os.close(descriptor)
        raise OSError(error.errno, error.strerror, shown) from error
    return descriptor


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return how many may be open.

    The soft one is low for programs that use select(2), which this is not. Raises SetupError where
    there are too few to serve any client.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    if soft < LEAST_DESCRIPTORS:
        raise SetupError(
            f"the limit of open files is {soft}, and at least {LEAST_DESCRIPTORS} are needed: "
            "raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        )
    return soft


def connections_within(most: int, descriptors: int) -> int:
    """How many connections of clients there is room for; says so where it is less than asked."""
    room = max(1, descriptors - max(LEAST_DESCRIPTORS, descriptors // KEPT_SHARE))
    if room >= most:
        return most
    log.warning(
        "the limit of %d open files allows for %d connections instead of %d "
        "(gateway.max_connections); raise the hard limit (ulimit -Hn, LimitNOFILE=)",
        descriptors,
        room,
        most,
    )
    return room


def collect_rarely() -> None:
    """Let the garbage collector leave alone what lives as long as the process.

    It looks less often at the rest, because every request waits while it looks: measured on a
    loaded machine, 6 % of a gateway's request and half of its p99 under full load, and a fifth of
    the time of a GPU's replica.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def shrink_heap() -> None:
    """Give what the C library holds of freed memory back to the system.

    After a tokenizer was parsed, whose file becomes many small objects for a moment: 86 MiB of 188
    for Qwen3's, in 40 ms. Only glibc has to be asked.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def unexplained_bytes() -> int:
    """Resident memory that no allocation of the C library explains: what its heap holds of freed
    memory, and what does not come from it (the interpreter's objects, code, stacks). May be
    negative, as not all that is allocated need be resident. Constant where the library is not
    asked: only glibc is.
    """
    heap_info = getattr(psutil, "heap_info", None)
    if heap_info is None:
        return 0
    heap = heap_info()
    resident: int = psutil.Process().memory_info().rss
    return int(resident - heap.heap_used - heap.mmap_used)


def worth_trimming(unexplained: int, after_last: int) -> bool:
    """Whether to trim the heap, by `unexplained_bytes` now and after it was trimmed last.

    Also when there is less of it: the interpreter may have given back what hides freed memory.
    """
    return abs(unexplained - after_last) >= TRIM_BYTES


async def trim_heap(every_s: float = TRIM_LOOK_S) -> None:
    """Give freed memory back to the system after a burst of large or many requests, until
    cancelled.

    The C library does so by itself only at the end of its heap: one small allocation behind
    250 MiB of request bodies that were received in pieces keeps them all resident.
    """
    after_last = unexplained_bytes()
    while True:
        await asyncio.sleep(every_s)
        if worth_trimming(unexplained_bytes(), after_last):
            await asyncio.to_thread(shrink_heap)
            after_last = unexplained_bytes()


async def reap_orphans(every_s: float = REAP_S) -> None:
    """Collect what other processes left behind and ended, until cancelled: process 1 has to.

    A child of our own is collected by the event loop as soon as it ends. What is still there at a
    second look is nobody's.
    """
    seen: set[int] = set()
    while True:
        await asyncio.sleep(every_s)
        ended = set(_ended(psutil.Process().children()))
        for pid in seen & ended:
            _collect(pid)
        seen = ended - seen


def _collect(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _ended(children: Iterable[psutil.Process]) -> Iterable[int]:
    for child in children:
        with contextlib.suppress(psutil.Error):
            if child.status() == psutil.STATUS_ZOMBIE:
                yield child.pid


def is_first(pid: Callable[[], int] = os.getpid) -> bool:
    """Whether this is process 1, that of a container."""
    return pid() == 1
