"""Tensors of safetensors files, mapped into memory and read only where they are touched.

This module decides how the bytes of a checkpoint become numbers: where a tensor lies, what its
type means, how rows are widened to float32 or narrowed to int8. It refuses to know which tensors
a model needs; `checkpoint.py` does.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.vocabulary import ModelError

Floats = NDArray[np.float32]

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_CACHED_VALUES: Final = 1 << 16
_LARGEST_HEADER: Final = 100_000_000  # the limit of the safetensors format itself

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
    index = directory / _INDEX
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} is no index of safetensors files: {error!r}.") from error
        paths = [directory / shard for shard in sorted(shards)]
    else:
        paths = [directory / _SINGLE]
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"{path} is missing: a model directory holds {_SINGLE}, or {_INDEX} and its shards."
            )
    return paths


def _mapped(path: Path) -> list[Tensor]:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 8:
            raise ModelError(f"{path} is no safetensors file: it has only {size} bytes.")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(content[:8], "little")
    if start > min(size, _LARGEST_HEADER):
        raise ModelError(f"{path} is no safetensors file, or was cut off: its header is too long.")
    try:
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        return [_tensor(path, content, start, name, entry) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} has an unreadable safetensors header: {error!r}.") from error


def _tensor(path: Path, content: mmap.mmap, start: int, name: str, entry: Any) -> Tensor:
    kind, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
    begin, end = entry["data_offsets"]
    if kind not in _TYPES:
        raise ModelError(
            f"{path}: tensor {name} has type {kind}; supported are {', '.join(_TYPES)}."
        )
    dtype = _TYPES[kind]
    count = int(np.prod(shape, dtype=np.int64))
    if end - begin != count * dtype.itemsize or begin < 0 or start + end > len(content):
        raise ModelError(
            f"{path}: tensor {name} of shape {list(shape)} does not fit in its bytes "
            f"({begin} to {end} of {len(content) - start}); the file was cut off or damaged."
        )
    stored = np.frombuffer(content, dtype=dtype, count=count, offset=start + begin)
    return Tensor(name, kind, stored.reshape(shape), Place(content, start + begin, start + end))
