"""Finds a model's weight files and reads the headers of safetensors files.

The engine, which reads all the numbers, and the gateway, which reads none, must agree on which
files are the weights: other safetensors files, such as golden vectors, may lie beside them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta

from embedfleet.models.json_files import brief, names_neighbour
from embedfleet.vocabulary import ModelError

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
LARGEST_HEADER: Final = 100_000_000
"""Bytes; the limit of the safetensors format itself."""
_LENGTH_BYTES: Final = 8
"""A safetensors file begins with the length of its JSON header, a little-endian integer."""
_BITS: Final = {
    name: bits
    for bits, names in {
        4: ("F4",),
        6: ("F6_E2M3", "F6_E3M2"),
        8: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
        16: ("U16", "I16", "F16", "BF16"),
        32: ("U32", "I32", "F32"),
        64: ("U64", "I64", "F64", "C64"),
    }.items()
    for name in names
}
"""Bits of one number, by the format's own names of types."""

_Size = Annotated[int, Meta(ge=0, le=2**47)]
_Name = Annotated[str, Meta(min_length=1, max_length=512)]


class _Entry(msgspec.Struct):
    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


class _Index(msgspec.Struct):
    weight_map: dict[_Name, _Name]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The position of a tensor in its file."""

    name: str
    kind: str
    """The safetensors type, for instance F32 or BF16."""
    shape: tuple[int, ...]
    begin: int
    """Byte of the file where it begins; `end` is behind its last one."""
    end: int


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the model's weights: one, or else the shards that an index names.

    Where there are both, the one counts, as for transformers. Empty where the directory holds none;
    whether each of them is there is not looked at. Raises ModelError for an index that can't be
    read or names files elsewhere.
    """
    single, index = directory / SINGLE, directory / INDEX
    if single.is_file():
        return [single]
    try:
        shards = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"{index} can't be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{index} is not an index of safetensors files: {error}.") from None
    outside = [shard for shard in shards if not names_neighbour(shard)]
    if outside:
        raise ModelError(f"{index} names {brief(outside[0])}, which is not a file beside it.")
    return [directory / shard for shard in sorted(shards)]


def read_header(path: Path, file: BinaryIO) -> list[StoredTensor]:
    """The tensors of an open safetensors file, by their place in it.

    Raises ModelError where it is no such file, was cut off, or its tensors overlap.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    start = _LENGTH_BYTES + length
    if size < _LENGTH_BYTES or length > LARGEST_HEADER or start > size:
        raise ModelError(_no_file(path, file, size))
    try:
        entries = msgspec.json.decode(file.read(length), type=dict[_Name, msgspec.Raw])
        entries.pop("__metadata__", None)
        tensors = [
            _placed(path, name, msgspec.json.decode(entry, type=_Entry), start, size)
            for name, entry in entries.items()
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} has an unreadable safetensors header: {error}.") from None
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _refuse_overlaps(path, tensors)
    return tensors


def _no_file(path: Path, file: BinaryIO, size: int) -> str:
    file.seek(0)
    if file.read(20).startswith(b"version https://git-"):
        return (
            f"{path} is a pointer of Git LFS, not the file itself: `git lfs pull` in its "
            "repository brings the weights."
        )
    return f"{path} is not a safetensors file, or was cut off after {size} bytes."


def _placed(path: Path, name: str, entry: _Entry, start: int, size: int) -> StoredTensor:
    begin, end = (start + offset for offset in entry.data_offsets)
    bits = _BITS.get(entry.dtype)
    fits = bits is None or prod(entry.shape) * bits == (end - begin) * 8
    if not fits or begin > end or end > size:
        raise ModelError(
            f"{path}: tensor {name} of shape {list(entry.shape)} does not fit in its bytes "
            f"({begin - start} to {end - start} of {size - start}); the file was cut off or "
            "damaged."
        )
    return StoredTensor(name, entry.dtype, entry.shape, begin, end)


def _refuse_overlaps(path: Path, tensors: Sequence[StoredTensor]) -> None:
    end, before = 0, ""
    for tensor in tensors:
        if tensor.begin < end and tensor.begin < tensor.end:
            raise ModelError(f"{path}: tensors {before} and {tensor.name} share bytes.")
        if tensor.end > end:
            end, before = tensor.end, tensor.name
