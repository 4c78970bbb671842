"""What the driver says of a GPU, with a driver of our own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from embedfleet.telemetry.gpu import Gpu, GpuState, open_gpu


class FakeNvml:
    """Answers as pynvml does, in the driver's units."""

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


def test_an_engine_without_a_gpu_has_none_to_look_at() -> None:
    assert open_gpu(None) is None
