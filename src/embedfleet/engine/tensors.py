"""Tensors of safetensors files, mapped into memory and read only where they are touched.

This module decides how the bytes of a checkpoint become numbers: where a tensor lies, what its
type means, how rows are widened to float32 or narrowed to int8. It refuses to know which tensors
a model needs; `checkpoint.py` does.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.model.weights import INDEX, SINGLE, StoredTensor, read_header, weight_files
from embedfleet.vocabulary import ModelError

Floats = NDArray[np.float32]

_CACHED_VALUES: Final = 1 << 16

# NumPy has no bfloat16: its bits are kept as uint16 and widened by `_widened`.
_TYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),
        "I8": np.dtype("i1"),
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a mapped file."""

    content: mmap.mmap
    begin: int
    end: int

    def leave(self) -> None:
        """Count no longer as memory of this process, until touched again."""
        begin = self.begin // mmap.PAGESIZE * mmap.PAGESIZE
        self.content.madvise(mmap.MADV_DONTNEED, begin, self.end - begin)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored tensor of any shape; its bytes stay in the file until they are touched."""

    name: str
    kind: str
    """The safetensors type: F32, F16, BF16 or I8."""
    stored: NDArray[Any]
    place: Place | None = None
    """Where it is in its file; None for numbers that come from elsewhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def floats(self) -> Floats:
        """All values as float32, in the stored shape; a copy."""
        return _widened(self.kind, self.stored)

    def leave(self) -> None:
        """Say that its numbers were read and are not needed soon; any may be read again."""
        if self.place is not None:
            self.place.leave()


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix [out, in], in whatever type it is stored."""

    tensor: Tensor
    scales: Floats | None = None
    """Of int8 weights: one factor for each output row, shape [out, 1]."""

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    def rows(self, indices: NDArray[np.int32]) -> Floats:
        """Rows at `indices` as float32, shape [len(indices), in]."""
        rows = _widened(self.tensor.kind, self.tensor.stored[indices])
        if self.scales is not None:
            rows *= self.scales[indices]
        return rows

    def floats(self) -> Floats:
        """Widen the whole matrix to float32; a copy."""
        values = self.tensor.floats()
        if self.scales is not None:
            values *= self.scales
        return values

    def int8(self) -> tuple[NDArray[np.int8], Floats]:
        """Values in -127..127 and one scale per output row [out, 1]; stored int8 stays as it is."""
        if self.scales is not None:
            return np.ascontiguousarray(self.tensor.stored), self.scales
        rows, columns = self.shape
        values = np.empty((rows, columns), dtype=np.int8)
        scales = np.empty((rows, 1), dtype=np.float32)
        # A few rows at a time stay in the processor's cache: a third of the time.
        step = max(1, _CACHED_VALUES // columns)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            floats = _widened(self.tensor.kind, self.tensor.stored[part])
            largest = np.maximum(floats.max(axis=1), -floats.min(axis=1))
            largest[largest == 0] = 127  # a row of zeros
            scales[part, 0] = largest / np.float32(127)
            floats /= scales[part]
            values[part] = np.rint(floats, out=floats)
        return values, scales


def _widened(kind: str, stored: NDArray[Any]) -> Floats:
    if kind == "BF16":
        # bfloat16 is the upper half of a float32. In place: fresh memory costs more than the shift.
        bits = stored.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    return stored.astype(np.float32)


def open_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in `directory`, mapped, by its name without `model.`.

    Raises ModelError when there are no weights, or a file is not what it should be.
    """
    tensors: dict[str, Tensor] = {}
    for path in _files(directory):
        for tensor in _mapped(path):
            name = tensor.name.removeprefix("model.")
            if name in tensors:
                raise ModelError(f"{path}: tensor {name} is there twice in the checkpoint.")
            tensors[name] = tensor
    return tensors


def _files(directory: Path) -> list[Path]:
    paths = weight_files(directory) or [directory / SINGLE]
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"{path} is missing: a model directory holds {SINGLE}, or {INDEX} and its shards."
            )
    return paths


def _mapped(path: Path) -> list[Tensor]:
    with path.open("rb") as file:
        stored = read_header(path, file)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return [_tensor(path, content, each) for each in stored]


def _tensor(path: Path, content: mmap.mmap, stored: StoredTensor) -> Tensor:
    if stored.kind not in _TYPES:
        raise ModelError(
            f"{path}: tensor {stored.name} has type {stored.kind}; supported are "
            f"{', '.join(_TYPES)}."
        )
    dtype = _TYPES[stored.kind]
    count = (stored.end - stored.begin) // dtype.itemsize
    numbers = np.frombuffer(content, dtype=dtype, count=count, offset=stored.begin)
    place = Place(content, stored.begin, stored.end)
    return Tensor(stored.name, stored.kind, numbers.reshape(stored.shape), place)
