"""Passes captured as a CUDA graph for each layer, with attention launched anew between them.

For passes with texts that are computed by cuDNN, whose launches depend on where the texts are. All
else depends on the number of tokens alone: of the dozen launches of a layer, three or four remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Final, Protocol, Self, TypeAlias

import torch
from torch import Tensor

from embedfleet.engines.cuda.graphs import Compute, Pool, begin
from embedfleet.engines.cuda.layout import TILE, Layout, Shape
from embedfleet.engines.cuda.linear import Ready
from embedfleet.engines.cuda.plain import Heads, Operations, Texts, parts_of

Graph: TypeAlias = torch.cuda.CUDAGraph


class SplitOperations(Operations, Protocol):
    """Operations whose attention can be computed apart from what is before and behind it."""

    def room(self, heads: Heads) -> Ready:
        """Memory for the result of attention, not written."""
        ...

    def attend(self, heads: Heads, texts: Texts, *, last: bool, into: Ready | None = None) -> Ready:
        """As in `Operations`; the result is in `into` if given."""
        ...


ComputeWith: TypeAlias = Callable[[Operations], Compute]
"""Makes a pass that computes with these operations."""

_TYPES: Final = {1: "|u1", 2: "<i2", 4: "<i4"}
"""Of the CUDA array interface, by bytes of a number; it knows neither bfloat16 nor FP8."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The kernels up to the attention of a layer, and what that reads and writes."""

    graph: Graph
    heads: Heads
    attended: Ready


@dataclass(frozen=True, slots=True)
class PassInPieces:
    """A pass of a number of tokens that reads and writes the same memory each time."""

    shape: Shape
    inputs: Tensor
    pieces: Sequence[Piece]
    end: Graph
    """What comes after the attention of the last layer but one."""
    vectors: Tensor
    operations: SplitOperations

    def run(self, inputs: Tensor, layout: Layout) -> Tensor:
        """Compute on the current stream; the result is overwritten by the next run of any pass."""
        self.inputs.copy_(inputs, non_blocking=True)
        _, texts = parts_of(self.inputs, self.shape, layout)
        texts = replace(texts, tiles=texts.tiles[: TILE * len(layout.tiles)])
        for piece in self.pieces:
            piece.graph.replay()
            self.operations.attend(piece.heads, texts, last=False, into=piece.attended)
        self.end.replay()
        return self.vectors


def capture_in_pieces(
    shapes: Iterable[Shape],
    compute: ComputeWith,
    operations: SplitOperations,
    device: torch.device,
    pool: Pool,
) -> dict[Shape, PassInPieces]:
    """Capture a pass of every shape. All kernels must have been launched before.

    The memory of `pool` is shared with all other passes captured in it: only one may run at a time.
    """
    captured = {}
    for shape in shapes:
        inputs = torch.zeros(shape.size, dtype=torch.int32, device=device)
        with _Recording(operations, pool) as recording:
            vectors = compute(recording)(inputs, shape)
        pieces, end = recording.pieces, recording.graph
        captured[shape] = PassInPieces(shape, inputs, pieces, end, vectors, operations)
    return captured


class _Recording:
    """Operations that are captured; where attention would be computed a graph ends and another
    begins."""

    def __init__(self, operations: SplitOperations, pool: Pool) -> None:
        self.norm, self.gate, self.unit = operations.norm, operations.gate, operations.unit
        self.pieces: list[Piece] = []
        self.graph = Graph()
        self._operations = operations
        self._pool = pool

    def __enter__(self) -> Self:
        begin(self.graph, self._pool)
        return self

    def attend(self, heads: Heads, texts: Texts, *, last: bool) -> Ready:
        if last:  # each text has a tile
            return self._operations.attend(heads, texts, last=True)
        attended = self._operations.room(heads)
        self.graph.capture_end()
        self.pieces.append(Piece(self.graph, _borrowed_heads(heads), _borrowed_ready(attended)))
        self.graph = Graph()
        begin(self.graph, self._pool)
        return attended

    def __exit__(self, *_: object) -> None:
        self.graph.capture_end()


def _borrowed_heads(heads: Heads) -> Heads:
    return replace(
        heads,
        queries=_borrowed(heads.queries),
        keys=_borrowed(heads.keys),
        values=_borrowed(heads.values),
    )


def _borrowed_ready(ready: Ready) -> Ready:
    return Ready(_borrowed(ready.values), None if ready.scales is None else _borrowed(ready.scales))


def _borrowed(tensor: Tensor) -> Tensor:
    """A view that does not keep its memory: that is the pool's, and later layers use it as well."""
    size = tensor.element_size()
    memory = SimpleNamespace(
        __cuda_array_interface__={
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(size * stride for stride in tensor.stride()),
            "typestr": _TYPES[size],
            "version": 3,
        }
    )
    return torch.as_tensor(memory, device=tensor.device).view(tensor.dtype)
