"""Layout of texts in one pass on the GPU: concatenated, cut into attention tiles, in one array.

A text whose first tokens are those of another text of the pass has no rows for them: its tiles name
the rows of the other, which its queries see before its own. Index arithmetic in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines.passes import SharingPass
from embedfleet.vocabulary import Encoding

Integers = NDArray[np.int32]

TILE: Final = 6
"""Integers of a tile."""
_ALIGNED: Final = 4
"""Parts begin at whole 16 bytes: kernels are compiled for aligned pointers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the arrays of a pass, which may be larger than what the texts need."""

    tokens: int
    texts: int
    tiles: int

    @property
    def parts(self) -> dict[str, slice]:
        """Where each array lies in the one that goes to the device."""
        sizes = {
            "ids": self.tokens,
            "positions": self.tokens,
            "pooled": self.texts,
            "tiles": TILE * self.tiles,
            "last_tiles": TILE * self.texts,
        }
        parts, begin = {}, 0
        for name, size in sizes.items():
            parts[name] = slice(begin, begin + size)
            begin += -(-size // _ALIGNED) * _ALIGNED
        return parts

    @property
    def size(self) -> int:
        """Integers of all parts together."""
        end: int = self.parts["last_tiles"].stop
        return -(-end // _ALIGNED) * _ALIGNED

    def holds(self, other: Shape) -> bool:
        return (
            self.tokens >= other.tokens and self.texts >= other.texts and self.tiles >= other.tiles
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is in one pass of whole texts."""

    lengths: tuple[int, ...]
    """Of whole texts, in tokens."""
    shared: Integers
    """First tokens of each text that have no rows of their own, [texts]."""
    lent: Integers
    """The row where those tokens lie instead, [texts]."""
    begins: Integers
    """Of each text's rows, and the end of the last, [texts + 1]."""
    tiles: Integers
    """Tiles of attention, [tiles, TILE]: first query row; query rows; the row of the text's first
    key, were all its keys in rows of its own; how many keys come before the first query's own, or,
    where attention is not causal, how many the text has; how many of its first keys lie elsewhere,
    and the row of the first of these. Those with most keys come first: they take longest."""
    alone: tuple[int, ...]
    """Texts without tiles, which are so long that their attention is computed one by one."""

    @property
    def tokens(self) -> int:
        return int(self.begins[-1])

    @property
    def shape(self) -> Shape:
        """The least that holds it."""
        return Shape(self.tokens, len(self.lengths), len(self.tiles))

    def write(self, texts: Sequence[Encoding], shape: Shape, to: Integers) -> None:
        """Fill `to` [shape.size]; what is beyond the texts belongs to none and is never read."""
        to[:] = 0
        parts = shape.parts
        tokens, count = self.tokens, len(self.lengths)
        begins, own = self.begins[:-1], np.diff(self.begins)
        if self.shared.any():
            texts = [text[first:] for text, first in zip(texts, self.shared, strict=True)]
        np.concatenate(texts, out=to[parts["ids"]][:tokens])
        keys = begins - self.shared
        to[parts["positions"]][:tokens] = np.arange(tokens) - np.repeat(keys, own)
        to[parts["pooled"]][:count] = self.begins[1:] - 1
        to[parts["tiles"]][: TILE * len(self.tiles)] = self.tiles.reshape(-1)
        # In the last layer only each text's last token asks, in a row of its own.
        rows = np.arange(count, dtype=np.int32)
        before = np.asarray(self.lengths, np.int32) - 1
        last = np.stack([rows, np.ones_like(rows), keys, before, self.shared, self.lent], axis=1)
        to[parts["last_tiles"]][: TILE * count] = last.reshape(-1)


def lay_out(
    lengths: Sequence[int],
    *,
    tile_tokens: int,
    alone_from: int,
    causal: bool = True,
    sharing: SharingPass | None = None,
) -> Layout:
    """Lay out texts of `lengths` tokens; those of `alone_from` tokens or more get no tiles.

    `sharing` tells the first tokens that are those of other texts, which are none by default.
    """
    sizes = np.asarray(lengths, dtype=np.int32)
    first = np.zeros_like(sizes) if sharing is None else np.asarray(sharing.shared, np.int32)
    own = sizes - first
    begins = np.concatenate([[0], np.cumsum(own)]).astype(np.int32)
    lent = begins[:-1] if sharing is None else begins[sharing.lenders]
    tiled = np.flatnonzero(sizes < alone_from)
    counts = -(-own[tiled] // tile_tokens)
    text = np.repeat(tiled, counts)
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    done = number * tile_tokens
    rows = np.minimum(tile_tokens, own[text] - done)
    keys = first[text] + done if causal else sizes[text]
    own_keys = begins[text] - first[text]
    tiles = np.stack([begins[text] + done, rows, own_keys, keys, first[text], lent[text]], axis=1)
    order = np.argsort(-keys, kind="stable")
    return Layout(
        lengths=tuple(int(size) for size in sizes),
        shared=first,
        lent=lent,
        begins=begins,
        tiles=tiles[order].astype(np.int32),
        alone=tuple(int(one) for one in np.flatnonzero(sizes >= alone_from)),
    )


def rounded_up(shape: Shape, rows: int) -> Shape:
    """The least shape whose tokens and texts are whole multiples of `rows`."""
    tokens, texts = (-(-size // rows) * rows for size in (shape.tokens, shape.texts))
    return Shape(tokens, texts, shape.tiles)
