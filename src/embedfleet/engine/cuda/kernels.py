"""Triton kernels for all that happens between the matrix products.

Each reads what it needs once and writes what comes of it once: on a GPU these operations cost what
their bytes cost. Decides how a row or a tile is computed; refuses to know the model. `fused.py`
launches them, `plain.py` says in torch what each one means.

Rows are computed one by one, in an order that depends on their own sizes alone: a text's numbers
are the same bits whatever else is in the batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST_FP8: tl.constexpr = tl.constexpr(448.0)
"""The largest number of e4m3."""
SMALLEST_SCALE: tl.constexpr = tl.constexpr(1e-12)
"""A row of zeros must stay zero, not become 0/0."""


@triton.jit
def store_row(
    values: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    row: tl.tensor,
    inside: tl.tensor,
    QUANTISES: tl.constexpr,
) -> None:
    """Write a row as it is, or in FP8 with its scale; `out` points at its numbers."""
    if QUANTISES:
        scale = tl.maximum(tl.max(tl.abs(values), 0) / LARGEST_FP8, SMALLEST_SCALE)
        tl.store(scales + row, scale)
        values = values / scale
    tl.store(out, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm_kernel(
    x: tl.tensor,
    delta: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    epsilon: tl.tensor,
    width: tl.tensor,
    WIDTH: tl.constexpr,
    ADDS: tl.constexpr,
    QUANTISES: tl.constexpr,
) -> None:
    """Add `delta` to the rows of `x` in place (if ADDS), and write their RMS norm."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    at = row * width + columns
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        values += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(x.dtype.element_ty)
        tl.store(x + at, rounded, mask=inside)
        values = rounded.to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / width + epsilon)
    normed *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    store_row(normed, out + at, scales, row, inside, QUANTISES)


@triton.jit
def quantise_kernel(
    x: tl.tensor, out: tl.tensor, scales: tl.tensor, width: tl.tensor, WIDTH: tl.constexpr
) -> None:
    """Write rows in FP8, each with its scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    at = row * width + columns
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    store_row(values, out + at, scales, row, inside, True)


@triton.jit
def gate_kernel(
    x: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    width: tl.tensor,
    WIDTH: tl.constexpr,
    QUANTISES: tl.constexpr,
) -> None:
    """SwiGLU: of rows [gate, up] of 2 * width numbers write silu(gate) * up."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < width
    gate = tl.load(x + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    gated = gate * tl.sigmoid(gate) * up
    store_row(gated, out + row * width + columns, scales, row, inside, QUANTISES)


@triton.jit
def rotate_kernel(
    x: tl.tensor,
    positions: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    query_norm: tl.tensor,
    key_norm: tl.tensor,
    epsilon: tl.tensor,
    stride: tl.tensor,
    query_blocks: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    """RMS norm and RoPE over HEADS heads of a token, in place; `query_blocks` blocks are queries.

    A row of `x` begins with the query heads, and then the key heads.
    """
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    half = tl.arange(0, HALF)
    heads = block * HEADS + tl.arange(0, HEADS)
    at = x + token * stride + heads[:, None] * (2 * HALF) + half[None, :]
    first = tl.load(at).to(tl.float32)
    second = tl.load(at + HALF).to(tl.float32)
    weight = tl.where(block < query_blocks, query_norm, key_norm)
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    factor = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
    first = first * factor * tl.load(weight + half).to(tl.float32)[None, :]
    second = second * factor * tl.load(weight + HALF + half).to(tl.float32)[None, :]
    place = tl.load(positions + token).to(tl.int64) * HALF + half
    cosine, sine = tl.load(cosines + place)[None, :], tl.load(sines + place)[None, :]
    tl.store(at, (first * cosine - second * sine).to(x.dtype.element_ty))
    tl.store(at + HALF, (second * cosine + first * sine).to(x.dtype.element_ty))


@triton.jit
def unit_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    epsilon: tl.tensor,
    width: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    """RMS norm of rows, then length 1, in float32; a row that is not finite has a NaN somewhere."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    at = row * width + columns
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / width + epsilon)
    normed *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt_rn(tl.sum(normed * normed, 0))
    tl.store(out + at, tl.div_rn(normed, length), mask=inside)


@triton.jit
def attend_keys(
    state: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    stride: tl.tensor,
    scale: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    visible: tl.tensor,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tuple:
    """Add keys `first` to `end` to the running softmax; a row sees the first `visible` of all."""
    total, highest, weights = state
    dims, columns = tl.arange(0, WIDTH), tl.arange(0, KEYS)
    for start in tl.range(first, end, KEYS):
        places = start + columns
        at = places[:, None] * stride + dims[None, :]
        if MASKED:
            key = tl.load(keys + at, mask=places[:, None] < end, other=0.0)
            value = tl.load(values + at, mask=places[:, None] < end, other=0.0)
        else:
            key = tl.load(keys + at)
            value = tl.load(values + at)
        scores = tl.dot(query, tl.trans(key)) * scale
        if MASKED:
            scores = tl.where(places[None, :] < visible[:, None], scores, float("-inf"))
        top = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.exp2(scores - top[:, None])
        fade = tl.exp2(highest - top)
        weights = weights * fade + tl.sum(shares, 1)
        total = tl.dot(shares.to(value.dtype), value, total * fade[:, None])
        highest = top
    return total, highest, weights


@triton.jit
def attention_kernel(
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    tiles: tl.tensor,
    scale: tl.tensor,
    query_stride: tl.tensor,
    stride: tl.tensor,
    GROUP: tl.constexpr,
    PACK: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
) -> None:
    """Causal attention of one tile: some tokens of one text, PACK query heads of one key head.

    A tile is [first query row, query rows, first key row, keys before the first query's own]. Keys
    are taken in blocks that begin at the text's first, wherever it lies in the batch.
    """
    tile = tiles + tl.program_id(0) * 4
    query_row, count = tl.load(tile), tl.load(tile + 1)
    key_row, before = tl.load(tile + 2), tl.load(tile + 3)
    if count == 0:  # a tile that pads a captured graph
        return
    head = tl.program_id(1) * PACK
    rows, dims = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    tokens = rows // PACK
    columns = (head + rows % PACK)[:, None] * WIDTH + dims[None, :]
    inside = tokens[:, None] < count
    at = (query_row + tokens)[:, None]
    query = tl.load(queries + at * query_stride + columns, mask=inside, other=0.0)
    base = key_row.to(tl.int64) * stride + head // GROUP * WIDTH
    visible = before + tokens + 1
    state = (
        tl.zeros([ROWS, WIDTH], tl.float32),
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
    )
    seen_by_all = (before + 1) // KEYS * KEYS
    state = attend_keys(
        *(state, query, keys + base, values + base, stride, scale, 0, seen_by_all, visible),
        *(KEYS, WIDTH, False),
    )
    total, _, weights = attend_keys(
        *(state, query, keys + base, values + base, stride, scale, seen_by_all, before + count),
        *(visible, KEYS, WIDTH, True),
    )
    result = (total / weights[:, None]).to(out.dtype.element_ty)
    tl.store(out + at * (HEADS * WIDTH) + columns, result, mask=inside)
