"""Layout of texts in one pass of the OpenVINO engine: offsets, positions and attention inputs.

Index arithmetic in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines.qwen3 import Qwen3Config
from embedfleet.engines.rope import Tables
from embedfleet.engines.tensors import Floats

BLOCK_TOKENS: Final = 32
"""Tokens in a block of key and value scratch; fixed by OpenVINO's CPU plugin."""

Arrays = dict[str, NDArray[Any]]
"""Inputs of the graph by name."""


class Rotations:
    """RoPE's cosines and sines in the graph's form: for both halves of a head."""

    def __init__(self, config: Qwen3Config) -> None:
        self._tables = Tables(config)

    def at(self, positions: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Cosines and sines at `positions`, each [len(positions), 1, 1, head_dim]."""
        cosines, sines = (
            np.tile(table[positions], 2)[:, None, None]
            for table in self._tables.up_to(int(positions.max()) + 1)
        )
        return cosines, sines


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is in one pass."""

    tokens: int
    texts: int
    blocks: int
    """Scratch blocks that the pass needs; none where attention is padded."""
    positions: NDArray[np.int32]
    """Of each token in its text, [tokens]."""
    indices: Arrays
    """Index inputs of the graph: for attention, and `pooled`, each text's last row."""


def whole_texts(lengths: Sequence[int]) -> Layout:
    """Lay out a pass of complete texts of `lengths` tokens."""
    sizes = np.asarray(lengths, dtype=np.int32)
    begins = _from_zero(sizes)
    block_begins = _from_zero(-(-sizes // BLOCK_TOKENS))
    tokens, blocks = int(begins[-1]), int(block_begins[-1])
    return Layout(
        tokens=tokens,
        texts=len(sizes),
        blocks=blocks,
        positions=np.arange(tokens, dtype=np.int32) - np.repeat(begins[:-1], sizes),
        indices={
            "pooled": begins[1:] - np.int32(1),
            "past": np.zeros_like(sizes),
            "begins": begins,
            "blocks": np.arange(blocks, dtype=np.int32),
            "block_begins": block_begins,
            "longest": np.array(sizes.max()),
        },
    )


def side_by_side(lengths: Sequence[int]) -> Layout:
    """Lay out a pass of complete texts for padded attention."""
    sizes = np.asarray(lengths, dtype=np.int32)
    begins, longest = _from_zero(sizes), sizes.max()
    positions = np.arange(begins[-1], dtype=np.int32) - np.repeat(begins[:-1], sizes)
    columns = np.minimum(np.arange(longest, dtype=np.int32), sizes[:, None] - np.int32(1))
    return Layout(
        tokens=len(positions),
        texts=len(sizes),
        blocks=0,
        positions=positions,
        indices={
            "pooled": begins[1:] - np.int32(1),
            "grid": begins[:-1, None] + columns,
            "places": np.repeat(np.arange(len(sizes), dtype=np.int32) * longest, sizes) + positions,
        },
    )


def chunk_of_text(start: int, stop: int, *, seen: int) -> Layout:
    """Lay out the tokens `start` to `stop` of one text whose earlier chunks are in the scratch.

    They see the `seen` tokens before them, either all (`start`) or none (0). `start` and `seen`
    are whole blocks. The scratch holds the text's blocks in order.
    """
    first, end = (start - seen) // BLOCK_TOKENS, -(-stop // BLOCK_TOKENS)
    tokens = stop - start
    return Layout(
        tokens=tokens,
        texts=1,
        blocks=end,
        positions=np.arange(start, stop, dtype=np.int32),
        indices={
            "pooled": np.array([tokens - 1], dtype=np.int32),
            "past": np.array([seen], dtype=np.int32),
            "begins": np.array([0, tokens], dtype=np.int32),
            "blocks": np.arange(first, end, dtype=np.int32),
            "block_begins": np.array([0, end - first], dtype=np.int32),
            "longest": np.array(seen + tokens, dtype=np.int32),
        },
    )


def _from_zero(sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
