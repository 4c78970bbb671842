"""What the benchmarks of the GPU engine count and show."""

from __future__ import annotations

import pytest
from benchmarks.gpu_client import Seen


def test_a_request_that_failed_is_counted_and_no_throughput() -> None:
    seen = Seen([])
    seen.count(200, 0.5, tokens=64, received_bytes=9_000)
    seen.count(503, 0.001, tokens=64, received_bytes=80)
    assert seen == Seen([0.5], tokens=64, failed=1, received_bytes=9_000)


def test_a_figure_that_the_driver_does_not_tell_is_shown_as_none() -> None:
    pytest.importorskip("torch", reason="torch is not installed; `make reference` adds it")
    from benchmarks.gpu_engine import of_gpu, watts  # noqa: PLC0415  after the skip

    told = of_gpu({"replica_gpu_busy_ratio": 0.5, "replica_gpu_power_watts": float("nan")})
    assert told == {"gpu_busy": 0.5, "gpu_power_w": None, "gpu_memory_gb": None}
    assert (watts(told["gpu_power_w"]), watts(612.4)) == ("-", "612")
