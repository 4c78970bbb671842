"""What the driver says of a GPU, with a driver of our own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from embedfleet.runtime.telemetry.gpu import Gpu, GpuState, open_gpu


class FakeNvml:
    """Answers as pynvml does, in the driver's units."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        assert handle == "GPU-0c1d"
        return SimpleNamespace(used=3 << 30, total=141 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 612_500


@pytest.mark.parametrize("uuid", ["0c1d", "GPU-0c1d"])
def test_figures_come_in_base_units_whichever_way_the_gpu_is_named(uuid: str) -> None:
    state = Gpu(FakeNvml(), uuid).read()
    assert state == GpuState(0.97, 3 << 30, 141 << 30, 612.5)


class WithoutPower(FakeNvml):
    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        raise self.NVMLError("Not Supported")


def test_what_the_driver_does_not_tell_is_nan_and_noted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu = Gpu(WithoutPower(), "0c1d")
    states = [gpu.read(), gpu.read()]
    for state in states:
        assert math.isnan(state.power_w)
        assert (state.busy, state.memory_used_bytes) == (0.97, 3 << 30)
    assert caplog.text.count("does not report the GPU's power: Not Supported") == 1


def test_an_engine_without_a_gpu_has_none_to_monitor() -> None:
    assert open_gpu(None) is None
