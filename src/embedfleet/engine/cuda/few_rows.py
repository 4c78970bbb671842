"""Products of few rows: as fast as the device can read the matrix.

Decides when and in which pieces, as measured on an H200: for 16 rows the matrices of a layer of the
4B take 72 µs in bf16 (cuBLAS: 75) and 56 µs in FP8 (cuBLAS: 75); for 64 rows cuBLAS is faster.
Refuses to know where a matrix stands.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor

from embedfleet.engine.cuda import kernels
from embedfleet.engine.cuda.linear import Ready

MOST_ROWS: Final = 16
"""The least that matrix units take."""
OUTPUTS: Final = 32
INPUTS: Final = 256


class FewRowsKernel:
    """On CUDA devices, in bf16 or FP8."""

    def suits(self, rows: int, weight: Tensor) -> bool:
        return rows <= MOST_ROWS and weight.shape[1] % INPUTS == 0

    def times(
        self, ready: Ready, weight: Tensor, scales: Tensor | None, added_to: Tensor | None
    ) -> Tensor:
        rows, outputs = len(ready.values), weight.shape[0]
        out = added_to
        if out is None:
            out = torch.empty(rows, outputs, dtype=torch.bfloat16, device=weight.device)
        kernels.few_rows_kernel[(triton.cdiv(outputs, OUTPUTS),)](
            *(ready.values, weight, out),
            out if ready.scales is None else ready.scales,
            out if scales is None else scales,
            *(rows, outputs),
            ROWS=MOST_ROWS,
            OUTPUTS=OUTPUTS,
            INPUTS=INPUTS,
            WIDTH=weight.shape[1],
            SCALES=scales is not None,
            ADDS=added_to is not None,
            num_warps=4,
            num_stages=4,
        )
        return out
