"""What the processor offers this process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from embedfleet.runtime.machine import (
    Sources,
    loopback,
    memory_used,
    multiplies_int8_exactly,
    processor_flags,
    usable_processors,
)

FOUR = frozenset(range(4))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A machine whose kernel says nothing yet."""
    return Sources(*(tmp_path / each for each in ("cgroup", "membership", "cpu", "meminfo")))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


def test_the_machine_at_hand_has_at_least_one_processor() -> None:
    assert 1 <= usable_processors() <= len(os.sched_getaffinity(0))


def test_the_loopback_address_can_be_listened_on() -> None:
    host = loopback()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((host, 0))


def test_without_a_quota_the_affinity_mask_decides(sources: Sources) -> None:
    assert usable_processors(sources, FOUR) == 4
    write(sources.cgroup / "cpu.max", "max 100000")
    assert usable_processors(sources, FOUR) == 4


@pytest.mark.parametrize(
    ("quota", "processors"),
    [("100000 100000", 1), ("20000 100000", 1), ("260000 100000", 3), ("9600000 100000", 4)],
)
def test_a_container_s_quota_counts_rounded_and_never_below_one(
    sources: Sources, quota: str, processors: int
) -> None:
    write(sources.cgroup / "cpu.max", quota)
    assert usable_processors(sources, FOUR) == processors


def test_the_least_quota_of_the_groups_around_the_process_holds(sources: Sources) -> None:
    write(sources.membership, "0::/fleet/replicas")
    write(sources.cgroup / "fleet" / "replicas" / "cpu.max", "max 100000")
    write(sources.cgroup / "fleet" / "cpu.max", "200000 100000")
    write(sources.cgroup / "others" / "cpu.max", "100000 100000")
    assert usable_processors(sources, FOUR) == 2


def test_of_a_path_that_a_container_does_not_show_the_top_is_left(sources: Sources) -> None:
    write(sources.membership, "0::/kubepods/pod7/abc")
    write(sources.cgroup / "cpu.max", "300000 100000")
    assert usable_processors(sources, FOUR) == 3


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_the_older_control_groups_count_too(sources: Sources, folder: str) -> None:
    write(sources.membership, f"3:memory:/\n4:{folder}:/docker/abc")
    group = sources.cgroup / folder / "docker" / "abc"
    write(group / "cpu.cfs_period_us", "100000")
    write(group / "cpu.cfs_quota_us", "100000")
    assert usable_processors(sources, FOUR) == 1
    write(group / "cpu.cfs_quota_us", "-1")
    assert usable_processors(sources, FOUR) == 4


def test_two_threads_of_one_core_count_once(sources: Sources) -> None:
    for number in range(4):
        siblings = f"{number % 2},{number % 2 + 2}"
        write(sources.topology / f"cpu{number}" / "topology" / "thread_siblings_list", siblings)
    assert usable_processors(sources, FOUR) == 2
    assert usable_processors(sources, frozenset({1, 3})) == 1
    assert usable_processors(sources, frozenset({0, 1})) == 2


def write_memory(sources: Sources, total: int, available: int) -> None:
    told = f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n"
    sources.meminfo.write_text(told)


def write_group(directory: Path, limit: str, used: int, *, new: bool = True) -> None:
    """A control group of which 50 bytes are cached files."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current")
    names = names if new else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, content in zip(names, (limit, used), strict=True):
        (directory / name).write_text(f"{content}\n")
    cached = "inactive_file 50" if new else "inactive_file 7\ntotal_inactive_file 50"
    (directory / "memory.stat").write_text(f"anon 800\n{cached}\n")


def test_memory_in_use_is_what_could_not_be_given_back(sources: Sources) -> None:
    write_memory(sources, 1000, 250)
    assert memory_used(sources) == 0.75


def test_the_control_group_counts_where_it_is_fuller_than_the_host(sources: Sources) -> None:
    write_memory(sources, 1000, 250)
    write_group(sources.cgroup, "1000", 950)
    assert memory_used(sources) == 0.9
    write_group(sources.cgroup, "max", 950)
    assert memory_used(sources) == 0.75


@pytest.mark.parametrize("below", ["", "/worker"])
def test_a_limit_of_the_service_s_own_group_counts_too(sources: Sources, below: str) -> None:
    """As of a unit with MemoryMax: at the top of a host's control groups there is none."""
    write_memory(sources, 1000, 250)
    sources.membership.write_text(f"0::/system.slice/embedfleet.service{below}\n")
    write_group(sources.cgroup / "system.slice" / "embedfleet.service", "1000", 850)
    assert memory_used(sources) == 0.8


@pytest.mark.parametrize("path", ["/", "/docker/4711"])
def test_old_control_groups_tell_of_their_memory_too(sources: Sources, path: str) -> None:
    """In a container the path may be the host's, of which only the top is mounted."""
    write_memory(sources, 1000, 250)
    sources.membership.write_text(f"4:memory:{path}\n3:cpu,cpuacct:{path}\n0::/\n")
    write_group(sources.cgroup / "memory", "1000", 850, new=False)
    assert memory_used(sources) == 0.8
    write_group(sources.cgroup / "memory", str(2**63 - 4096), 850, new=False)
    assert memory_used(sources) == 0.75


def test_memory_that_is_not_reported_is_unknown(sources: Sources) -> None:
    assert memory_used(sources) is None
    sources.meminfo.write_text("MemTotal: many kB\n")
    assert memory_used(sources) is None


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        ("flags : fpu avx2 avx512f avx512_vnni", True),
        ("flags : fpu avx2 avx_vnni", True),
        ("flags : fpu avx512f amx_int8", True),
        ("flags : fpu avx2 avx512f avx512bw", False),
        ("Features : fp asimd i8mm", False),
        ("", False),
    ],
)
def test_int8_is_exact_with_vnni_or_amx_alone(tmp_path: Path, flags: str, *, exact: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\n{flags}\n", encoding="utf-8")
    assert multiplies_int8_exactly(path, "x86_64") is exact


def test_a_machine_that_says_nothing_is_not_trusted_with_int8(tmp_path: Path) -> None:
    assert not multiplies_int8_exactly(tmp_path / "absent")


def test_instructions_are_those_of_the_first_processor_listed(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx2 fma\nprocessor : 1\nflags : fpu\n")
    assert processor_flags(path, "x86_64") == {"fpu", "avx2", "fma"}
    assert not processor_flags(tmp_path / "absent", "x86_64")


def test_arm_emulated_on_x86_has_none_of_its_host_s_instructions(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags : avx2 avx512_vnni\n")  # as QEMU shows it
    assert not processor_flags(path, "aarch64")
    assert not multiplies_int8_exactly(path, "aarch64")
