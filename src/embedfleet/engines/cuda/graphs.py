"""Captures small passes of fixed sizes as CUDA graphs and replays them.

Computing a small pass takes less time than launching its three hundred kernels from Python does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from embedfleet.engines.cuda.layout import Layout, Shape

Compute: TypeAlias = Callable[[Tensor, Shape], Tensor]
"""A pass of a size: its integers in, vectors out."""

Pool: TypeAlias = tuple[int, int]
"""Memory of captured passes, of which only one may run at a time."""


@dataclass(frozen=True, slots=True)
class CapturedPass:
    """A pass that reads and writes the same memory each time."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    vectors: Tensor

    def run(self, inputs: Tensor, layout: Layout) -> Tensor:  # noqa: ARG002  # it is in `inputs`
        """Compute on the current stream; the result is overwritten by the next run of any pass."""
        self.inputs.copy_(inputs, non_blocking=True)
        self.graph.replay()
        return self.vectors


def capture(
    shapes: Iterable[Shape], compute: Compute, kernels: Compute, device: torch.device, pool: Pool
) -> dict[Shape, CapturedPass]:
    """Capture `compute` for every shape, largest first, with memory of `pool`.

    `kernels` launches all kernels that `compute` does, but fewer times. Both get zeros of
    `shape.size`: one text's worth of rows that belong to nobody. Other threads may use the device
    meanwhile.
    """
    captured: dict[Shape, CapturedPass] = {}
    for shape in sorted(shapes, key=lambda shape: -shape.tokens):
        inputs = torch.zeros(shape.size, dtype=torch.int32, device=device)
        kernels(inputs, shape)  # compiles and loads them, makes handles and workspaces
        captured[shape] = CapturedPass(*_captured(compute, inputs, shape, pool))
    return captured


def begin(graph: torch.cuda.CUDAGraph, pool: Pool) -> None:
    """Begin to capture what this thread gives to the current stream."""
    # Not by torch.cuda.graph, which waits for the device and gives memory back before each capture.
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")


def _captured(
    compute: Compute, inputs: Tensor, shape: Shape, pool: Pool
) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
    graph = torch.cuda.CUDAGraph()
    begin(graph, pool)
    try:
        vectors = compute(inputs, shape)
    finally:
        graph.capture_end()
    return graph, inputs, vectors
