"""Triton kernels for encoders: bidirectional attention, and mean pooling.

Key blocks start at a text's first token, wherever it lies in the batch, so its result is
bit-identical whatever is beside it.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from embedfleet.engines.bert import EncoderConfig
from embedfleet.engines.cuda.attention_kernel import FIELDS, attended
from embedfleet.engines.cuda.layout import TILE
from embedfleet.engines.cuda.plain import Texts

TILE_TOKENS: Final = 64
_TILE_KEYS: Final = 64
_MEAN_COLUMNS: Final = 128


@triton.jit
def encoder_attention_kernel(
    mixed: tl.tensor,
    out: tl.tensor,
    tiles: tl.tensor,
    scale: tl.tensor,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
) -> None:
    """Attention of one tile: some tokens of one text, one head. A tile is as in `Layout`."""
    tile = tiles + tl.program_id(0) * FIELDS
    query_row, count = tl.load(tile), tl.load(tile + 1)
    key_row, length = tl.load(tile + 2), tl.load(tile + 3)
    if count == 0:  # a tile that pads a captured graph
        return
    HIDDEN: tl.constexpr = HEADS * WIDTH
    STRIDE: tl.constexpr = 3 * HIDDEN
    rows, dims = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    inside = rows[:, None] < count
    at = (query_row + rows).to(tl.int64)[:, None]
    columns = tl.program_id(1) * WIDTH + dims[None, :]
    query = tl.load(mixed + at * STRIDE + columns, mask=inside, other=0.0)
    base = mixed + tl.program_id(1) * WIDTH
    visible = tl.zeros([ROWS], tl.int32) + length
    result = attended(
        *(query, base + HIDDEN, base + 2 * HIDDEN, STRIDE, scale, key_row, 0, 0),
        *(length, visible, KEYS, WIDTH),
    )
    tl.store(out + at * HIDDEN + columns, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def mean_kernel(
    x: tl.tensor, out: tl.tensor, tiles: tl.tensor, width: tl.tensor, WIDTH: tl.constexpr
) -> None:
    """The mean of a text's rows at WIDTH columns, row after row in float32.

    A tile is that of the text's last token.
    """
    tile = tiles + tl.program_id(0) * FIELDS
    counts, begin, last = tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    if counts == 0:
        return
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < width
    total = tl.zeros([WIDTH], tl.float32)
    at = x + begin.to(tl.int64) * width + columns
    for row in tl.range(0, last + 1):
        total += tl.load(at + row * width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(0) * width + columns, total / (last + 1), mask=inside)


class FusedEncoderOperations:
    """On CUDA devices, in bf16; heads of a power of two."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config

    def attend(self, mixed: Tensor, texts: Texts) -> Tensor:
        config, tiles = self._config, texts.tiles
        out = mixed.new_empty(len(mixed), config.hidden)
        if len(tiles):
            encoder_attention_kernel[(len(tiles) // TILE, config.heads)](
                *(mixed, out, tiles),
                config.head_dim**-0.5 / math.log(2),  # for powers of two instead of e
                ROWS=TILE_TOKENS,
                KEYS=_TILE_KEYS,
                WIDTH=config.head_dim,
                HEADS=config.heads,
                num_warps=4,
                num_stages=3,
            )
        return out

    def mean(self, x: Tensor, texts: Texts) -> Tensor:
        count, width = len(texts.last_tiles) // TILE, x.shape[1]
        out = torch.empty(count, width, dtype=torch.float32, device=x.device)
        mean_kernel[(count, triton.cdiv(width, _MEAN_COLUMNS))](
            *(x, out, texts.last_tiles, width), WIDTH=_MEAN_COLUMNS
        )
        return out
