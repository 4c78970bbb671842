"""Packs weights into the layout that the native kernels read.

Several threads pack a checkpoint's matrices a few rows at a time from the file into one allocation,
so that peak memory hardly exceeds the packed weights. `kernels/pack.c` defines the panel layout.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines.architectures import Checkpoint
from embedfleet.engines.bert import EncoderLayer
from embedfleet.engines.native.library import (
    FROM_BF16,
    FROM_FLOAT,
    FROM_INT8,
    InstructionSet,
    Kernels,
    PackedLayer,
    PackedMatrix,
    address,
)
from embedfleet.engines.qwen3 import LayerWeights
from embedfleet.engines.tensors import Floats, Matrix, Tensor
from embedfleet.vocabulary import Precision

N = TypeVar("N", bound=np.generic)
L = TypeVar("L", LayerWeights, EncoderLayer)
"""A family's layer."""

_LINE: Final = 64
"""Bytes of a cache line, at which every array begins."""
_PART_VALUES: Final = 1 << 18
"""Of what is read at a time; 1 MiB of floats, which is in a cache when it is packed."""


class WeightBuffer:
    """One piece of memory, in huge pages where the system gives them; arrays are cut off it.

    The memory goes back when the last array of it does.
    """

    def __init__(self, size: int) -> None:
        """`size` bytes. Raises MemoryError."""
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._memory = mmap.mmap(-1, max(size, _LINE), flags=private)
        except OSError as error:
            raise MemoryError(f"not enough memory for weights of {size >> 20} MiB") from error
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
    """[out * in], int8 or float32, in panels of the instruction set."""
    scales: Floats
    """Of each output's groups, [out / panel][groups][panel]; empty for floats, as the sums are."""
    sums: NDArray[np.int32]
    """Of the weights of each group, times the offset of a token's bytes."""

    def rows(self, start: int, stop: int) -> Panels:
        """The panels of some outputs; whole panels."""
        factors = len(self.scales) // self.out
        return Panels(
            stop - start,
            self.in_,
            self.packed[start * self.in_ : stop * self.in_],
            self.scales[start * factors : stop * factors],
            self.sums[start * factors : stop * factors],
        )

    def pointers(self) -> PackedMatrix:
        scales, sums = (
            address(array) if array.size else None for array in (self.scales, self.sums)
        )
        return PackedMatrix(address(self.packed), scales, sums, None, self.out, self.in_)


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs matrices for one instruction set in one precision."""

    kernels: Kernels
    instructions: InstructionSet
    precision: Precision

    def size(self, matrix: Matrix) -> int:
        """Bytes that a matrix takes when it is packed."""
        out, in_ = matrix.shape
        if self.precision is Precision.F32:
            return padded(4 * out * in_)
        return padded(out * in_) + 2 * padded(4 * out * self._groups(in_))

    def empty(self, matrix: Matrix, memory: WeightBuffer) -> Panels:
        """Panels for a matrix, cut off `memory`."""
        out, in_ = matrix.shape
        floats = self.precision is Precision.F32
        packed = memory.take(out * in_, np.float32) if floats else memory.take(out * in_, np.int8)
        factors = 0 if floats else out * self._groups(in_)
        scales, sums = memory.take(factors, np.float32), memory.take(factors, np.int32)
        return Panels(out, in_, packed, scales, sums)

    def pack(self, matrix: Matrix, panels: Panels, columns: Floats | None = None) -> None:
        """Fill `panels`. Raises ModelError where the file can't be read.

        `columns` [in] are what weights are multiplied by before; not for those stored as int8.
        """
        floats = self.precision is Precision.F32
        for part, to in self._parts(matrix, panels):
            if part.tensor.kind == "BF16":
                self._put(FROM_BF16, _readable(part.tensor.stored[:]), to, columns=columns)
            elif floats or part.scales is None:
                self._put(FROM_FLOAT, part.floats(), to, columns=columns)
            else:  # what is int8 with one scale for an output stays so
                values, scales = part.int8()
                self._put(FROM_INT8, _readable(values), to, rows=np.ascontiguousarray(scales))

    def _put(
        self,
        source: int,
        values: NDArray[Any],
        panels: Panels,
        *,
        rows: Floats | None = None,
        columns: Floats | None = None,
    ) -> None:
        to = panels.pointers()
        factors = (None if array is None else address(array) for array in (rows, columns))
        self.kernels.functions.embedfleet_pack(
            self.instructions.number,
            source,
            address(values),
            *factors,
            panels.out,
            panels.in_,
            to.packed,
            to.scales,
            to.sums,
        )

    def _parts(self, matrix: Matrix, panels: Panels) -> Iterator[tuple[Matrix, Panels]]:
        """Pieces of whole panels that stay small when they are widened."""
        whole = self.kernels.numbers.outputs
        step = max(1, _PART_VALUES // panels.in_ // whole) * whole
        for start in range(0, panels.out, step):
            stop = min(panels.out, start + step)
            tensor = Tensor(
                matrix.tensor.name, matrix.tensor.kind, matrix.tensor.stored[start:stop]
            )
            scales = None if matrix.scales is None else matrix.scales[start:stop]
            yield Matrix(tensor, scales), panels.rows(start, stop)

    def _groups(self, inputs: int) -> int:
        """Of so many inputs, the last of which may be smaller; each has a scale in int8."""
        return -(-inputs // self.kernels.numbers.group_inputs)


class Weights:
    """Weights of layers, and the final norm, as the kernels take them."""

    def __init__(
        self, checkpoint: Checkpoint, packer: Packer, threads: int, which: Sequence[int]
    ) -> None:
        """Read the layers `which` and pack them; all take as long as reading, or about a second."""
        layers = [
            (layer, {}) if packer.precision is Precision.F32 else evened(layer)
            for layer in map(checkpoint.layer, which)
        ]
        size = padded(4 * checkpoint.config.hidden)
        size += sum(_size(packer, layer) for layer, _ in layers)
        self._memory = WeightBuffer(size)
        norm = checkpoint.final_norm
        self.final_norm = None if norm is None else self._kept(norm)
        self.layers = (PackedLayer * len(layers))()
        jobs: list[tuple[Matrix, Panels, Floats | None]] = []
        for (weights, columns), layer in zip(layers, self.layers, strict=True):
            for name, vector in _vectors(weights):
                setattr(layer, name, address(self._kept(vector)))
            for name, matrix in _matrices(weights):
                panels = packer.empty(matrix, self._memory)
                packed = panels.pointers()
                if matrix.bias is not None:
                    packed.bias = address(self._kept(matrix.bias))
                setattr(layer, name, packed)
                jobs.append((matrix, panels, columns.get(name)))
        with ThreadPoolExecutor(threads, "pack") as packers:
            list(packers.map(packer.pack, *zip(*jobs, strict=True)))

    def _kept(self, values: Floats) -> Floats:
        kept = self._memory.take(values.size, np.float32)
        kept[:] = values
        return kept


_AFTER: Final = {"input_norm": ("query", "key", "value"), "mlp_norm": ("gate", "up")}
"""The matrices that meet what a norm gives."""


def evened(layer: L) -> tuple[L, dict[str, Floats]]:
    """Norms' weights shared out between activations and the matrices that follow, half by half.

    Gives the layer with the square roots of the norms' weights, and for each of those matrices the
    other roots, [in], that its columns are to be multiplied by: the products are the same. Where a
    norm's weights differ much, int8 has large and small numbers side by side in a group: of tokens
    alone if the norm is theirs, of weights alone if it is the matrix's. This evens both (the idea
    of SmoothQuant, arXiv:2211.10438, with the norm's weight for the activation's range). Matrices
    that are stored as int8 stay as they are, and so do layers whose norms come last: what such a
    norm gives is added to again.
    """
    changed: dict[str, Any] = {}
    columns: dict[str, Floats] = {}
    for norm, names in _AFTER.items():
        if not hasattr(layer, norm) or any(
            getattr(layer, name).scales is not None for name in names
        ):
            continue
        weight: Floats = getattr(layer, norm)
        roots: Floats = np.sqrt(np.abs(weight))
        roots[roots == 0] = 1
        changed[norm] = weight / roots
        columns |= dict.fromkeys(names, roots)
    return (replace(layer, **changed) if changed else layer), columns


def _readable(values: NDArray[N]) -> NDArray[N]:
    """In one piece, at an address that C may read; in files nothing need lie so."""
    return np.require(values, requirements=["C", "A"])


def _members(layer: Any) -> Iterator[tuple[str, Any]]:
    """What a family's layer has, by the names that the kernels' layers have, too."""
    for field in fields(layer):
        yield field.name, getattr(layer, field.name)


def _matrices(layer: Any) -> list[tuple[str, Matrix]]:
    return [(name, one) for name, one in _members(layer) if isinstance(one, Matrix)]


def _vectors(layer: Any) -> list[tuple[str, Floats]]:
    return [(name, one) for name, one in _members(layer) if isinstance(one, np.ndarray)]


def _size(packer: Packer, layer: Any) -> int:
    """Bytes that a layer takes when it is packed."""
    matrices = [matrix for _, matrix in _matrices(layer)]
    vectors = [vector for _, vector in _vectors(layer)]
    vectors += [matrix.bias for matrix in matrices if matrix.bias is not None]
    return sum(map(packer.size, matrices)) + sum(padded(4 * each.size) for each in vectors)
