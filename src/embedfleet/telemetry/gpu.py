"""What the driver says of a GPU: how busy it is, its memory and its power.

Decides which figures are read and in which units. Refuses to know what runs on the GPU. No other
module knows NVML, and it is loaded only where an engine names a GPU.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuState:
    """One look at a GPU."""

    busy: float
    """Share of the last moments in which any kernel ran, 0 to 1."""
    memory_used_bytes: int
    """By all processes."""
    memory_total_bytes: int
    power_w: float
    """Watts."""


class Gpu:
    """One GPU, by the name that the driver has for it."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        """`nvml` is the module pynvml; its own errors come out where it finds no such GPU."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")

    def read(self) -> GpuState:
        """Ask the driver; takes about a millisecond."""
        nvml, handle = self._nvml, self._handle
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return GpuState(
            busy=nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            memory_used_bytes=memory.used,
            memory_total_bytes=memory.total,
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        )


def open_gpu(uuid: str | None) -> Gpu | None:
    """Find the GPU of this name; None for no name, and, with a note, where NVML is missing."""
    if uuid is None:
        return None
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        log.warning("no figures of the GPU: pip install 'embedfleet[cuda]' brings nvidia-ml-py")
        return None
    try:
        return Gpu(nvml, uuid)
    except nvml.NVMLError as error:
        log.warning("no figures of the GPU %s: %s", uuid, error)
        return None
