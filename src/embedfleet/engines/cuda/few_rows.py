"""Matrix products with few rows, at the speed at which the device can read the matrix.

Block shapes are those that were fastest on an H200 (docs/decisions/0014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from triton.runtime import driver

from embedfleet.engines.cuda.few_rows_kernel import few_rows_kernel
from embedfleet.engines.cuda.linear import Ready

FEWEST_ROWS: Final = 16
"""That matrix units compute; fewer cost as much."""
MOST_ROWS: Final = 16
MOST_FP8_ROWS: Final = 64
_WARPS: Final = 4
_LEAST_INPUTS: Final = 128
_MOST_PARTS: Final = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """How a matrix is tiled over thread blocks."""

    outputs: int
    """Of a block."""
    inputs: int
    """That a block takes at once."""
    parts: int
    """Of the inputs, each of which is summed by a block of its own."""
    stages: int
    """Loads that a block has under way, and one more."""
    ahead: int
    """Numbers of each row, from where its part begins, that are asked for before the turn."""


def cut(outputs: int, inputs: int, *, fp8: bool, processors: int) -> Cut:
    """What was fastest for the four matrices of a layer of the 4B on an H200.

    In bf16 small blocks where they fill the device; else blocks as high as matrix units want them,
    and as many parts of the inputs as keep the device full.
    """
    if not fp8 and outputs >= 32 * processors and not inputs % 256:
        return Cut(32, 256, 1, 4, 512)
    most = processors * 5 // 4 if fp8 else processors * 2
    blocks, parts = -(-outputs // 64), 1
    while (
        parts < _MOST_PARTS
        and blocks * parts * 2 <= most
        and not inputs % (parts * 2 * _LEAST_INPUTS)
    ):
        parts *= 2
    share = inputs // parts
    wide = fp8 and not share % 256
    return Cut(64, 256 if wide else 128, parts, 4 if wide else 5, min(256, share))


def stages_in(room: int, way: Cut, rows: int, size: int) -> int:
    """Those of `way` that fit into `room` bytes of a block's memory; numbers take `size` bytes."""
    return max(2, min(way.stages, room // ((way.outputs + rows) * way.inputs * size)))


class FewRowsKernel:
    """On one CUDA device, in bf16 or FP8; one product at a time."""

    def __init__(self, device: torch.device, *, early: bool) -> None:
        """`early`: whether the device brings kernels up while others still run."""
        properties = driver.active.utils.get_device_properties(device.index or 0)
        self._processors: int = properties["multiprocessor_count"]
        self._room: int = properties["max_shared_mem"]
        self._early = early
        # Captured passes keep their addresses. Parts are made of no more blocks than this.
        most = self._processors * 2
        self._partial = torch.empty(most * 64 * MOST_FP8_ROWS, device=device)
        self._done = torch.zeros(most, dtype=torch.int32, device=device)

    def suits(self, rows: int, weight: Tensor) -> bool:
        most = MOST_FP8_ROWS if weight.dtype == torch.float8_e4m3fn else MOST_ROWS
        return rows <= most and weight.shape[1] % _LEAST_INPUTS == 0

    def times(
        self, ready: Ready, weight: Tensor, scales: Tensor | None, added_to: Tensor | None
    ) -> Tensor:
        rows, (outputs, inputs) = len(ready.values), weight.shape
        out = added_to
        if out is None:
            out = torch.empty(rows, outputs, dtype=torch.bfloat16, device=weight.device)
        way = cut(outputs, inputs, fp8=scales is not None, processors=self._processors)
        most_rows = max(FEWEST_ROWS, 1 << (rows - 1).bit_length())
        few_rows_kernel[(-(-outputs // way.outputs), way.parts)](
            *(ready.values, weight, out),
            out if ready.scales is None else ready.scales,
            out if scales is None else scales,
            *(self._partial, self._done, rows, outputs, way.ahead),
            ROWS=most_rows,
            OUTPUTS=way.outputs,
            INPUTS=way.inputs,
            WIDTH=inputs,
            PARTS=way.parts,
            SCALES=scales is not None,
            ADDS=added_to is not None,
            EARLY=self._early,
            THREADS=32 * _WARPS,
            num_warps=_WARPS,
            num_stages=stages_in(self._room, way, most_rows, weight.element_size()),
            launch_pdl=self._early,
        )
        return out
