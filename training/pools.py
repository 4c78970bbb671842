"""Ragged token arrays by name, in one compressed file: what travels from preparation to training.

A pool is a list of token sequences in two arrays, `NAME/flat` (all ids) and `NAME/starts`. Other
arrays of the file are plain. This module does not know what any name means.
"""

import io
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Sequences of token ids laid end to end; sequence i is flat[starts[i]:starts[i + 1]]."""

    flat: NDArray[np.uint16]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, sequences: list[list[int]]) -> "Ragged":
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        flat = np.fromiter((i for s in sequences for i in s), np.uint16, int(lengths.sum()))
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]))


@dataclass
class Store:
    """Pools and plain arrays under their names."""

    pools: dict[str, Ragged]
    arrays: dict[str, NDArray[np.int64]]

    def save(self, path: Path) -> None:
        named: dict[str, NDArray[np.generic]] = dict(self.arrays)
        for name, pool in self.pools.items():
            named[f"{name}/flat"], named[f"{name}/starts"] = pool.flat, pool.starts
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **named)  # type: ignore[arg-type]
        with lzma.open(path, "wb", preset=4) as stream:
            stream.write(buffer.getbuffer())

    @classmethod
    def load(cls, path: Path) -> "Store":
        with lzma.open(path) as stream, np.load(io.BytesIO(stream.read())) as data:
            arrays = {name: data[name] for name in data.files}
        names = [name.removesuffix("/flat") for name in arrays if name.endswith("/flat")]
        pools = {n: Ragged(arrays.pop(f"{n}/flat"), arrays.pop(f"{n}/starts")) for n in names}
        return cls(pools, arrays)
