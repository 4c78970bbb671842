"""Reads a GPU's utilisation, memory and power through NVML.

NVML is loaded only in processes whose engine names a GPU.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from typing import Any

from embedfleet.runtime.extras import how_to_add

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuState:
    """One look at a GPU; NaN is what the driver does not tell."""

    busy: float
    """Share of the last moments in which any kernel ran, 0 to 1."""
    memory_used_bytes: float
    """By all processes."""
    memory_total_bytes: float
    power_w: float
    """Watts."""


class Gpu:
    """One GPU, by the name that the driver has for it."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        """`nvml` is the module pynvml; its own errors come out where it finds no such GPU."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._untold: set[str] = set()
        self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")

    def read(self) -> GpuState:
        """Ask the driver; takes about a millisecond."""
        nvml = self._nvml
        memory = self._asked("memory", nvml.nvmlDeviceGetMemoryInfo)
        rates = self._asked("utilisation", nvml.nvmlDeviceGetUtilizationRates)
        milliwatts = self._asked("power", nvml.nvmlDeviceGetPowerUsage)
        return GpuState(
            busy=nan if rates is None else rates.gpu / 100,
            memory_used_bytes=nan if memory is None else memory.used,
            memory_total_bytes=nan if memory is None else memory.total,
            power_w=nan if milliwatts is None else milliwatts / 1000,
        )

    def _asked(self, what: str, ask: Callable[[Any], Any]) -> Any:
        """What the driver says; None, and once a note, where it does not: parts of a GPU tell no
        utilisation, some GPUs no power, and one that is lost nothing."""
        try:
            return ask(self._handle)
        except self._nvml.NVMLError as error:
            if what not in self._untold:
                self._untold.add(what)
                log.warning("the driver does not report the GPU's %s: %s", what, error)
            return None


def open_gpu(uuid: str | None) -> Gpu | None:
    """Find the GPU of this name; None for no name, and, with a note, where NVML is missing."""
    if uuid is None:
        return None
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        log.warning("no GPU metrics without nvidia-ml-py: %s", how_to_add("cuda"))
        return None
    try:
        return Gpu(nvml, uuid)
    except nvml.NVMLError as error:
        log.warning("no metrics for GPU %s: %s", uuid, error)
        return None
