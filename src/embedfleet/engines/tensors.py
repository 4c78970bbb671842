"""Reads tensors of safetensors files on demand, widened to float32 or quantised to int8.

Files are read, not memory-mapped: overwriting a mapped file would change the weights of a running
engine, and truncating it would kill the process (SIGBUS). A file that ends early is a ModelError.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedfleet.models.absent import absent
from embedfleet.models.weights import SINGLE, StoredTensor, read_header, weight_files
from embedfleet.vocabulary import ModelError

Floats = NDArray[np.float32]

_CACHED_VALUES: Final = 1 << 16
_ALL: Final = slice(None)

# NumPy has no bfloat16: its bits are kept as uint16 and widened by `_widened`.
_TYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),
        "I8": np.dtype("i1"),
    }
)


class _OpenFile:
    """A file that stays open, also when another one takes its name, for as long as it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        self._state = self._found()

    def _found(self) -> tuple[int, int]:
        state = os.fstat(self.descriptor)
        return state.st_size, state.st_mtime_ns

    def read(self, array: NDArray[Any], begin: int) -> None:
        """Fill an array with the bytes from `begin` on.

        Raises ModelError, also where the file was written to since it was opened: what is read now
        and what was read before may be of two models.
        """
        left = array.reshape(-1).view(np.uint8).data
        while left:
            try:
                count = os.preadv(self.descriptor, [left], begin)
            except OSError as error:
                raise ModelError(f"{self.path} can't be read: {error.strerror}") from None
            if not count:
                break
            left, begin = left[count:], begin + count
        if left or self._found() != self._state:
            raise ModelError(f"{self.path} was written to while its model was in use.")


@dataclass(frozen=True, slots=True)
class Stored:
    """Numbers in a file; a slice of rows reads them, as of a dataset of h5py."""

    file: _OpenFile
    begin: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Rows start to stop, a copy. Raises ModelError."""
        start, stop, _ = rows.indices(self.shape[0])
        array = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        self.read(rows, array)
        return array

    def read(self, rows: slice, into: NDArray[Any]) -> None:
        """Fill `into`, of any type and as many bytes as the rows. Raises ModelError."""
        start, _, _ = rows.indices(self.shape[0])
        row = self.dtype.itemsize * prod(self.shape[1:])
        self.file.read(into, self.begin + start * row)


Numbers: TypeAlias = NDArray[Any] | Stored


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of any shape, in a file or in memory."""

    name: str
    kind: str
    """The safetensors type: F32, F16, BF16 or I8."""
    stored: Numbers

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def floats(self) -> Floats:
        """All values as float32, in the stored shape; a copy."""
        return _widened(self.kind, self.stored[:])

    def read(self, rows: slice, into: NDArray[np.uint8]) -> None:
        """Write the bytes of some rows to `into`, which has room for just these."""
        if isinstance(self.stored, Stored):
            self.stored.read(rows, into)
        else:
            into[:] = np.ascontiguousarray(self.stored[rows]).reshape(-1).view(np.uint8)

    def held(self) -> Tensor:
        """The same in memory, whatever becomes of its file."""
        return replace(self, stored=self.stored[:])


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix [out, in], in whatever type it is stored."""

    tensor: Tensor
    scales: Floats | None = None
    """Of int8 weights: one factor for each output row, shape [out, 1]."""
    bias: Floats | None = None
    """What is added to each output, [out]."""

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    def rows(self, indices: NDArray[np.int32]) -> Floats:
        """Rows at `indices` as float32, shape [len(indices), in]; of a matrix in memory."""
        if isinstance(self.tensor.stored, Stored):
            raise TypeError(f"{self.tensor.name} is not held")
        rows = _widened(self.tensor.kind, self.tensor.stored[indices])
        if self.scales is not None:
            rows *= self.scales[indices]
        return rows

    def floats(self, rows: slice = _ALL) -> Floats:
        """Some rows, by default all, as float32; a copy."""
        values = _widened(self.tensor.kind, self.tensor.stored[rows])
        if self.scales is not None:
            values *= self.scales[rows]
        return values

    def held(self) -> Matrix:
        """The same in memory, whatever becomes of its file."""
        return replace(self, tensor=self.tensor.held())

    def int8(self) -> tuple[NDArray[np.int8], Floats]:
        """Values in -127..127 and one scale per output row [out, 1]; stored int8 stays as it is."""
        if self.scales is not None:
            return np.ascontiguousarray(self.tensor.stored[:]), self.scales
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


def open_tensors(
    directory: Path, prefixes: Sequence[str] = ("model.",), unread: Collection[str] = ()
) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in `directory`, by its name without the prefix; none is read.

    Those named in `unread` are left out, whatever their type. Raises ModelError when there are no
    weights, or a file is not what it should be.
    """
    tensors: dict[str, Tensor] = {}
    for path in _files(directory):
        for name, tensor in _opened(path, prefixes, unread):
            if name in tensors:
                raise ModelError(f"{path}: tensor {name} is there twice in the checkpoint.")
            tensors[name] = tensor
    return tensors


def _files(directory: Path) -> list[Path]:
    paths = weight_files(directory) or [directory / SINGLE]
    for path in paths:
        if not path.is_file():
            raise absent(path)
    return paths


def _opened(
    path: Path, prefixes: Sequence[str], unread: Collection[str]
) -> list[tuple[str, Tensor]]:
    try:
        with path.open("rb") as file:
            stored = read_header(path, file)
        content = _OpenFile(path)
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from None
    named = [(_bare(each.name, prefixes), each) for each in stored]
    return [(name, _tensor(path, content, each)) for name, each in named if name not in unread]


def _bare(name: str, prefixes: Sequence[str]) -> str:
    found = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return name.removeprefix(found)


def _tensor(path: Path, content: _OpenFile, stored: StoredTensor) -> Tensor:
    if stored.kind not in _TYPES:
        raise ModelError(
            f"{path}: tensor {stored.name} has type {stored.kind}; supported are "
            f"{', '.join(_TYPES)}. From other floats transformers makes them: "
            "AutoModel.from_pretrained(MODEL, dtype='float32').save_pretrained(DIRECTORY)."
        )
    numbers = Stored(content, stored.begin, _TYPES[stored.kind], stored.shape)
    return Tensor(stored.name, stored.kind, numbers)
