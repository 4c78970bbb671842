"""What the processor offers this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embedfleet.machine import memory_used, multiplies_int8_exactly, usable_processors

ALLOWED = len(os.sched_getaffinity(0))


def write_quota(directory: Path, quota: str) -> Path:
    (directory / "cpu.max").write_text(quota + "\n", encoding="ascii")
    return directory


def test_without_a_quota_the_affinity_mask_decides(tmp_path: Path) -> None:
    assert usable_processors(tmp_path) == ALLOWED
    assert usable_processors(write_quota(tmp_path, "max 100000")) == ALLOWED


def test_a_container_s_quota_counts_rounded_and_never_below_one(tmp_path: Path) -> None:
    assert usable_processors(write_quota(tmp_path, "100000 100000")) == 1
    assert usable_processors(write_quota(tmp_path, "20000 100000")) == 1
    assert usable_processors(write_quota(tmp_path, "9600000 100000")) == ALLOWED


def write_memory(directory: Path, total: int, available: int) -> Path:
    file = directory / "meminfo"
    file.write_text(f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n")
    return file


def test_memory_in_use_is_what_could_not_be_given_back(tmp_path: Path) -> None:
    assert memory_used(tmp_path, write_memory(tmp_path, 1000, 250)) == 0.75


def test_the_control_group_counts_where_it_is_fuller_than_the_host(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("950\n")
    (tmp_path / "memory.stat").write_text("anon 800\ninactive_file 50\n")
    assert memory_used(tmp_path, write_memory(tmp_path, 1000, 250)) == 0.9
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_used(tmp_path, write_memory(tmp_path, 1000, 250)) == 0.75


def test_memory_that_nobody_tells_is_unknown(tmp_path: Path) -> None:
    assert memory_used(tmp_path, tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("MemTotal: many kB\n")
    assert memory_used(tmp_path, tmp_path / "meminfo") is None


def test_the_older_control_groups_count_too(tmp_path: Path) -> None:
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_period_us").write_text("100000", encoding="ascii")
    (folder / "cpu.cfs_quota_us").write_text("100000", encoding="ascii")
    assert usable_processors(tmp_path) == 1
    (folder / "cpu.cfs_quota_us").write_text("-1", encoding="ascii")
    assert usable_processors(tmp_path) == ALLOWED


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
    assert multiplies_int8_exactly(path) is exact


def test_a_machine_that_says_nothing_is_not_trusted_with_int8(tmp_path: Path) -> None:
    assert not multiplies_int8_exactly(tmp_path / "absent")
