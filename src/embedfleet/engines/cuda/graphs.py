"""Captures small passes of fixed sizes as CUDA graphs and replays them.

Computing a small pass takes less time than launching its three hundred kernels from Python does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from embedfleet.engines.cuda.layout import Shape


@dataclass(frozen=True, slots=True)
class CapturedPass:
    """A pass that reads and writes the same memory each time."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    vectors: Tensor

    def run(self, inputs: Tensor) -> Tensor:
        """Compute on the current stream; the result is overwritten by the next run of any pass."""
        self.inputs.copy_(inputs, non_blocking=True)
        self.graph.replay()
        return self.vectors


def capture(
    shapes: Iterable[Shape], compute: Callable[[Tensor, Shape], Tensor], device: torch.device
) -> dict[Shape, CapturedPass]:
    """Capture `compute` for every shape; they share their memory, so only one may run at a time.

    `compute` gets zeros of `shape.size`: one text's worth of rows that belong to nobody.
    """
    captured: dict[Shape, CapturedPass] = {}
    pool = None
    for shape in sorted(shapes, key=lambda shape: -shape.tokens):
        inputs = torch.zeros(shape.size, dtype=torch.int32, device=device)
        compute(inputs, shape)  # compiles kernels, makes handles and workspaces
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream(device)):
            vectors = compute(inputs, shape)
        pool = pool or graph.pool()
        captured[shape] = CapturedPass(graph, inputs, vectors)
    return captured
