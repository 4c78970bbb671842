"""Detects the resources of this machine: CPU cores, instruction sets, memory, GPU driver.

Respects the affinity mask and control group quotas: a container limited to two CPUs on a host with
ninety-six has two.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")
_DEVICES: Final = Path("/dev")
_CPUINFO: Final = Path("/proc/cpuinfo")
_X86: Final = frozenset({"x86_64", "AMD64", "i686"})
_MEMORY: Final = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""What a control group tells of its memory, new and old: files of its limit and its use, and the
row of cached files."""
_INT8_DOT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the kernel reports processors and memory; tests write their own."""

    cgroup: Path = _CGROUP
    membership: Path = Path("/proc/self/cgroup")
    topology: Path = Path("/sys/devices/system/cpu")
    meminfo: Path = Path("/proc/meminfo")


_KERNEL: Final = Sources()


def usable_processors(sources: Sources = _KERNEL, allowed: frozenset[int] | None = None) -> int:
    """Threads that compute at full speed side by side in this process; at least 1.

    `allowed` are processor numbers, by default those of the affinity mask, which cpusets narrow.
    Two of one core count once: they share its arithmetic units, which matrix products keep busy
    with one thread.
    """
    numbers = _affinity() if allowed is None else allowed
    cores = len({_siblings(sources.topology, number) for number in numbers})
    quota = min(_quotas(sources), default=float(cores))
    # Half a processor left over is still worth a thread; one thread too many is throttled.
    return max(1, min(cores, round(quota)))


def _affinity() -> frozenset[int]:
    """The affinity mask; all processors where a sandbox does not let it be asked for."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError:
        return frozenset(range(os.cpu_count() or 1))


def loopback() -> str:
    """This machine's own address: 127.0.0.1, or ::1 where there is none of IPv4."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1"
    return "::1"


def _siblings(topology: Path, processor: int) -> str:
    """The processors of one core, as the kernel lists them; where it is silent, each is a core."""
    try:
        path = topology / f"cpu{processor}" / "topology" / "thread_siblings_list"
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return str(processor)


def _quotas(sources: Sources) -> Iterator[float]:
    """In processors."""
    for controllers, group in _groups(sources):
        if controllers == {""}:
            yield from _quota_v2(group)
        elif "cpu" in controllers:
            yield from _quota_v1(group)


def _groups(sources: Sources) -> Iterator[tuple[frozenset[str], Path]]:
    """This process's control groups and all around them, new and old, with what they control: an
    empty name stands for everything.
    """
    for line in _memberships(sources.membership):
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path).relative_to("/")
        # In a container the path may be the host's, of which only the top is mounted.
        for around in (group, *group.parents):
            yield frozenset(controllers.split(",")), sources.cgroup / controllers / around


def _memberships(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [
            "0::/",
            "1:cpu:/",
            "2:memory:/",
        ]  # a sandbox without the file may still show the top


def _quota_v2(group: Path) -> Iterator[float]:
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return


def _quota_v1(group: Path) -> Iterator[float]:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((group / "cpu.cfs_period_us").read_text(encoding="ascii"))
        if quota > 0 and period > 0:
            yield quota / period
    except (OSError, ValueError):
        return


def memory_used(sources: Sources = _KERNEL) -> float | None:
    """Share of memory in use: the host's, or a control group's where that is fuller.

    What can be given back at once, such as cached files, does not count. None if unknown.
    """
    return max((*_host_memory(sources.meminfo), *_group_memory(sources)), default=None)


def _host_memory(meminfo: Path) -> Iterator[float]:
    try:
        rows = [line.split() for line in meminfo.read_text(encoding="ascii").splitlines()]
        sizes = {name.rstrip(":"): int(size) for name, size, *_ in rows}
        yield 1.0 - sizes["MemAvailable"] / sizes["MemTotal"]
    except (OSError, ValueError, KeyError, ZeroDivisionError):
        return


def _group_memory(sources: Sources) -> Iterator[float]:
    for controllers, group in _groups(sources):
        for limit, used, cached in (_MEMORY[each] for each in controllers & _MEMORY.keys()):
            # Without a limit it is `max`, or in old ones far more than there is.
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                most, held = (int((group / each).read_text("ascii")) for each in (limit, used))
                rows = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
                yield (held - {name: int(size) for name, size in rows}.get(cached, 0)) / most


def multiplies_int8_exactly(
    cpuinfo: Path = _CPUINFO, architecture: str = platform.machine()
) -> bool:
    """Whether the processor has int8 dot products that add in 32 bits: VNNI or AMX.

    Older x86 adds pairs of products in 16 bits, which overflows: measured on the tests' models,
    the mean cosine falls from 0.9988 to 0.984, and nothing is gained in speed. On Arm OpenVINO's
    int8 is wrong altogether (2026.4, emulated with SVE: cosines around zero).
    """
    return not _INT8_DOT_PRODUCTS.isdisjoint(processor_flags(cpuinfo, architecture))


def processor_flags(
    cpuinfo: Path = _CPUINFO, architecture: str = platform.machine()
) -> frozenset[str]:
    """Instructions by the kernel's names for them; none where it is silent, or this is no x86.

    An emulated processor of another architecture may show the host's file.
    """
    if architecture not in _X86:
        return frozenset()
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").partition(":")[2].split())


def has_nvidia_driver(devices: Path = _DEVICES) -> bool:
    """Whether the driver of an NVIDIA GPU is there, of Windows' Linux too; loads nothing."""
    return any((devices / name).exists() for name in ("nvidiactl", "dxg"))
