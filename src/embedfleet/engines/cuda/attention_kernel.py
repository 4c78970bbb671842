"""Triton kernel for attention over concatenated texts, computed in tiles.

A text's first keys may lie in the rows of another text that begins with the same tokens. Key blocks
start at a text's first token in any case, so that its result is bit-identical wherever it and its
first keys lie in the batch.

A result in FP8 has a scale per token, which all heads must know: not from what they find but from
the largest value that the tile sees. Where the result is smaller by some powers of two, nothing is
lost, as FP8 has an exponent.
"""

from __future__ import annotations

import triton
import triton.language as tl

from embedfleet.engines.cuda.kernels import scale_of, take_turn
from embedfleet.engines.cuda.layout import TILE

FIELDS: tl.constexpr = tl.constexpr(TILE)
STEP: tl.constexpr = tl.constexpr(128)
"""Values whose magnitudes are looked at together."""


@triton.jit
def angles(
    cosines: tl.tensor,
    sines: tl.tensor,
    positions: tl.tensor,
    inside: tl.tensor,
    HALF: tl.constexpr,
) -> tl.tuple:
    """Cosines and sines of positions [rows], each [rows, HALF]."""
    at = positions[:, None] * HALF + tl.arange(0, HALF)[None, :]
    return tl.load(cosines + at, mask=inside), tl.load(sines + at, mask=inside)


@triton.jit
def turned(
    at: tl.tensor,
    inside: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    norm: tl.tensor,
    epsilon: tl.tensor,
    HALF: tl.constexpr,
) -> tl.tensor:
    """RMS norm and RoPE of heads of 2 * HALF that begin at `at` [rows, 1]."""
    TYPE: tl.constexpr = at.dtype.element_ty
    ROWS: tl.constexpr = at.shape[0]
    half = tl.arange(0, HALF)
    first = tl.load(at + half[None, :], mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF + half[None, :], mask=inside, other=0.0).to(tl.float32)
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    factor = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
    first *= factor * tl.load(norm + half).to(tl.float32)[None, :]
    second *= factor * tl.load(norm + HALF + half).to(tl.float32)[None, :]
    left = (first * cosine - second * sine).to(TYPE)
    right = (second * cosine + first * sine).to(TYPE)
    # One behind the other: [rows, half, 2] as [rows, 2, half].
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), (ROWS, 2 * HALF))


@triton.jit
def attend_keys(
    state: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    stride: tl.tensor,
    scale: tl.tensor,
    key_row: tl.tensor,
    shared: tl.tensor,
    lent: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    visible: tl.tensor,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tuple:
    """Add keys `first` to `end` to the running softmax; a row sees the first `visible` of all.

    The text's first `shared` keys lie in rows from `lent` on, the others `key_row` rows from where
    they are in the text.
    """
    total, highest, weights = state
    dims, columns = tl.arange(0, WIDTH), tl.arange(0, KEYS)
    for start in tl.range(first, end, KEYS):
        places = start + columns
        rows = places + tl.where(places < shared, lent, key_row)
        at = rows.to(tl.int64)[:, None] * stride + dims[None, :]
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
def attended(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    stride: tl.tensor,
    scale: tl.tensor,
    key_row: tl.tensor,
    shared: tl.tensor,
    lent: tl.tensor,
    before: tl.tensor,
    count: tl.tensor,
    visible: tl.tensor,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """What queries find: blocks of keys that all of them see, then those that some do not.

    In two loops, as comparing in every block costs long texts more than the second loop's wait for
    its first block.
    """
    ROWS: tl.constexpr = query.shape[0]
    state = (
        tl.zeros([ROWS, WIDTH], tl.float32),
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
    )
    seen_by_all = (before + 1) // KEYS * KEYS
    state = attend_keys(
        *(state, query, keys, values, stride, scale, key_row, shared, lent),
        *(0, seen_by_all, visible, KEYS, WIDTH, False),
    )
    total, _, weights = attend_keys(
        *(state, query, keys, values, stride, scale, key_row, shared, lent),
        *(seen_by_all, before + count, visible, KEYS, WIDTH, True),
    )
    return total * (1.0 / weights)[:, None]


@triton.jit
def magnitudes(
    largest: tl.tensor,
    start: tl.tensor,
    key_row: tl.tensor,
    shared: tl.tensor,
    lent: tl.tensor,
    end: tl.tensor,
) -> tl.tensor:
    """The largest magnitudes of STEP values from `start` on, of which `largest` has each token's;
    zeros behind the `end`."""
    places = start + tl.arange(0, STEP)
    rows = places + tl.where(places < shared, lent, key_row)
    return tl.load(largest + rows, mask=places < end, other=0.0)


@triton.jit
def largest_of(
    first: tl.tensor,
    largest: tl.tensor,
    key_row: tl.tensor,
    shared: tl.tensor,
    lent: tl.tensor,
    end: tl.tensor,
) -> tl.tensor:
    """The largest magnitude among a text's first `end` values; no mean of these is larger.

    `first` are the magnitudes of the first STEP, which are asked for before the queries are waited
    for: one trip to memory instead of two.
    """
    for start in tl.range(STEP, end, STEP, num_stages=1):
        first = tl.maximum(first, magnitudes(largest, start, key_row, shared, lent, end))
    return tl.max(first, 0)


@triton.jit
def scaled(result: tl.tensor, bound: tl.tensor, to: tl.tensor, first: tl.tensor) -> tl.tensor:
    """`result` as FP8 will hold it; its scale is stored at `to`, where `first` is true."""
    scale = scale_of(bound)
    tl.store(to, scale + tl.zeros(to.shape, tl.float32), mask=first)
    return result * (1.0 / scale)


@triton.jit
def fields(tile: tl.tensor) -> tl.tuple:
    """Of a tile as in `Layout`, in the pass's input, which no kernel writes."""
    query_row, count = tl.load(tile), tl.load(tile + 1)
    key_row, before = tl.load(tile + 2), tl.load(tile + 3)
    shared, lent = tl.load(tile + 4), tl.load(tile + 5)
    return query_row, count, key_row, before, shared, lent


@triton.jit
def attention_kernel(
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    largest: tl.tensor,
    tiles: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    norm: tl.tensor,
    epsilon: tl.tensor,
    scale: tl.tensor,
    query_stride: tl.tensor,
    stride: tl.tensor,
    GROUP: tl.constexpr,
    PACK: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    QUANTISES: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Causal attention of one tile: some tokens of one text, PACK query heads of one key head."""
    query_row, count, key_row, before, shared, lent = fields(tiles + tl.program_id(0) * FIELDS)
    head = tl.program_id(1) * PACK
    rows, dims = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    tokens = rows // PACK
    inside = tokens[:, None] < count
    cosine, sine = angles(cosines, sines, before + tokens, inside, WIDTH // 2)
    take_turn(EARLY)
    if count == 0:  # a tile that pads a captured graph
        return
    columns = (head + rows % PACK)[:, None] * WIDTH + dims[None, :]
    at = (query_row + tokens)[:, None]
    begin = queries + at * query_stride + (head + rows % PACK)[:, None] * WIDTH
    if QUANTISES:
        bounds = magnitudes(largest, 0, key_row, shared, lent, before + count)
    query = turned(begin, inside, cosine, sine, norm, epsilon, WIDTH // 2)
    base = head // GROUP * WIDTH
    result = attended(
        *(query, keys + base, values + base, stride, scale, key_row, shared, lent),
        *(before, count, before + tokens + 1, KEYS, WIDTH),
    )
    if QUANTISES:
        bound = largest_of(bounds, largest, key_row, shared, lent, before + count)
        first = (head + rows % PACK == 0) & (tokens < count)
        result = scaled(result, bound, scales + query_row + tokens, first)
    tl.store(out + at * (HEADS * WIDTH) + columns, result.to(out.dtype.element_ty), mask=inside)
