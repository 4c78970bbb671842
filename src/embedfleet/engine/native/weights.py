"""Weights in the order in which the kernels read them.

Decides how a checkpoint's matrices are packed: by several threads, straight from the mapped file
into one piece of memory, which ends up as large as the packed weights and hardly more on the way.
Refuses to know how panels look inside; `kernels/pack.c` does.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedfleet.engine.checkpoint import Checkpoint, LayerWeights
from embedfleet.engine.native.library import MATRICES, NORMS, PackedLayer, PackedMatrix, address
from embedfleet.engine.tensors import Floats, Matrix, Tensor
from embedfleet.vocabulary import Precision

N = TypeVar("N", bound=np.generic)

_LINE: Final = 64
"""Bytes of a cache line, at which every array begins."""
PANEL: Final = 32
"""Rows of a panel: panels follow each other, so that whole ones can be packed by themselves."""
GROUP_INPUTS: Final = 256
"""Inputs that share a scale in int8, those of an output as those of a token."""
_PART_VALUES: Final = 1 << 18
"""Of what is widened or quantised on the way, at a time; 1 MiB of floats."""


class Memory:
    """One piece of memory, in huge pages where the system gives them; arrays are cut off it.

    The memory goes back when the last array of it does.
    """

    def __init__(self, size: int) -> None:
        """`size` bytes. Raises MemoryError."""
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._memory = mmap.mmap(-1, max(size, _LINE), flags=private)
        except OSError as error:
            raise MemoryError(f"there is no memory for weights of {size >> 20} MiB") from error
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._taken = 0

    def take(self, count: int, dtype: type[N]) -> NDArray[N]:
        """An array [count] of zeros that begins at a cache line."""
        array = np.frombuffer(self._memory, dtype, count, self._taken)
        self._taken += padded(array.nbytes)
        return array


def padded(size: int) -> int:
    """Bytes that an array of `size` bytes takes of a Memory."""
    return -(-size // _LINE) * _LINE


@dataclass(frozen=True, slots=True)
class Panels:
    """A packed matrix."""

    out: int
    in_: int
    packed: NDArray[Any]
    """[out * in], int8 or float32."""
    scales: Floats
    """Of each output's groups, [out / 32][groups][32]; empty for floats, and so are the sums."""
    sums: NDArray[np.int32]
    """Of the weights of each group, times 128."""

    @classmethod
    def empty(cls, matrix: Matrix, precision: Precision, memory: Memory) -> Panels:
        out, in_ = matrix.shape
        floats = precision is Precision.F32
        packed = memory.take(out * in_, np.float32) if floats else memory.take(out * in_, np.int8)
        factors = 0 if floats else out * groups(in_)
        scales, sums = memory.take(factors, np.float32), memory.take(factors, np.int32)
        return cls(out, in_, packed, scales, sums)

    def rows(self, start: int, stop: int) -> Panels:
        """The panels of some outputs; whole panels."""
        factors = slice(start * groups(self.in_), stop * groups(self.in_))
        return Panels(
            stop - start,
            self.in_,
            self.packed[start * self.in_ : stop * self.in_],
            self.scales[factors],
            self.sums[factors],
        )

    def pointers(self) -> PackedMatrix:
        scales, sums = (
            address(array) if array.size else None for array in (self.scales, self.sums)
        )
        return PackedMatrix(address(self.packed), scales, sums, self.out, self.in_)


class Weights:
    """All weights of a model but its embeddings, as the kernels take them."""

    def __init__(
        self, checkpoint: Checkpoint, precision: Precision, kernels: ctypes.CDLL, threads: int
    ) -> None:
        """Read the whole checkpoint and pack it; takes as long as reading, or about a second."""
        layers = [checkpoint.layer(index) for index in range(checkpoint.config.layers)]
        norms = (len(NORMS) * len(layers) + 1) * padded(4 * max(_widths(checkpoint)))
        size = sum(packed_bytes(m, precision) for layer in layers for _, m in _matrices(layer))
        self._memory = Memory(size + norms)
        self.final_norm = self._kept(checkpoint.final_norm)
        self.layers = (PackedLayer * len(layers))()
        matrices: list[Matrix] = []
        packed: list[Panels] = []
        for weights, layer in zip(layers, self.layers, strict=True):
            for name in NORMS:
                setattr(layer, name, address(self._kept(getattr(weights, name))))
            for name, matrix in _matrices(weights):
                panels = Panels.empty(matrix, precision, self._memory)
                setattr(layer, name, panels.pointers())
                matrices.append(matrix)
                packed.append(panels)
        with ThreadPoolExecutor(threads, "pack") as packers:
            list(packers.map(pack, matrices, packed, repeat(kernels)))

    def _kept(self, values: Floats) -> Floats:
        kept = self._memory.take(values.size, np.float32)
        kept[:] = values
        return kept


def pack(matrix: Matrix, panels: Panels, kernels: ctypes.CDLL) -> None:
    """Fill `panels`; whatever can go straight from the file does."""
    (_pack_int8 if panels.scales.size else _pack_floats)(matrix, panels, kernels)
    matrix.tensor.leave()


def packed_bytes(matrix: Matrix, precision: Precision) -> int:
    """What a matrix takes when it is packed."""
    out, in_ = matrix.shape
    if precision is Precision.F32:
        return padded(4 * out * in_)
    return padded(out * in_) + 2 * padded(4 * out * groups(in_))


def groups(inputs: int) -> int:
    """Of so many inputs, the last of which may be smaller; each has a scale in int8."""
    return -(-inputs // GROUP_INPUTS)


def _pack_floats(matrix: Matrix, panels: Panels, kernels: ctypes.CDLL) -> None:
    if matrix.tensor.kind == "BF16":
        values = _readable(matrix.tensor.stored)
        sizes = panels.out, panels.in_
        kernels.embedfleet_pack_bf16(address(values), *sizes, address(panels.packed))
        return
    for part, to in _parts(matrix, panels):
        floats = part.floats()
        kernels.embedfleet_pack_float(address(floats), to.out, to.in_, address(to.packed))


def _pack_int8(matrix: Matrix, panels: Panels, kernels: ctypes.CDLL) -> None:
    if matrix.tensor.kind == "BF16":
        _quantise(kernels.embedfleet_quantise_bf16, _readable(matrix.tensor.stored), panels)
        return
    for part, to in _parts(matrix, panels):
        if part.scales is None:
            _quantise(kernels.embedfleet_quantise_float, part.floats(), to)
        else:
            _keep(part.int8(), to, kernels)


def _quantise(function: Any, values: NDArray[Any], panels: Panels) -> None:
    pointers = panels.pointers()
    to = (pointers.packed, pointers.scales, pointers.sums)
    function(address(values), panels.out, panels.in_, *to)


def _keep(stored: tuple[NDArray[np.int8], Floats], panels: Panels, kernels: ctypes.CDLL) -> None:
    """What is int8 with one scale for an output stays so: its groups have the same."""
    values, pointers = _readable(stored[0]), panels.pointers()
    to = (pointers.packed, pointers.sums)
    kernels.embedfleet_pack_int8(address(values), panels.out, panels.in_, *to)
    scales = panels.scales.reshape(-1, groups(panels.in_), PANEL)
    scales[:] = stored[1].reshape(-1, 1, PANEL)


def _parts(matrix: Matrix, panels: Panels) -> Iterator[tuple[Matrix, Panels]]:
    """Pieces of whole panels that stay small when they are widened."""
    step = max(1, _PART_VALUES // panels.in_ // PANEL) * PANEL
    for start in range(0, panels.out, step):
        stop = min(panels.out, start + step)
        tensor = Tensor(matrix.tensor.name, matrix.tensor.kind, matrix.tensor.stored[start:stop])
        scales = None if matrix.scales is None else matrix.scales[start:stop]
        yield Matrix(tensor, scales), panels.rows(start, stop)


def _readable(values: NDArray[N]) -> NDArray[N]:
    """In one piece, at an address that C may read; in files nothing need lie so."""
    return np.require(values, requirements=["C", "A"])


def _matrices(layer: LayerWeights) -> list[tuple[str, Matrix]]:
    return [(name, getattr(layer, name)) for name in MATRICES]


def _widths(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.config.hidden, checkpoint.config.head_dim
