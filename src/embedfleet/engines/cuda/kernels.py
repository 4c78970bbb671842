"""Triton kernels for everything between the matrix products.

These operations are bound by memory bandwidth, so each kernel reads its inputs once and writes its
results once. `fused.py` launches them; `plain.py` defines them in plain torch.

Rows are computed independently, in an order that depends on their own size alone: a text's result
is bit-identical whatever else is in the batch. Attention and products have modules of their own.

Where the device supports it (EARLY), each kernel is launched while the previous one still runs
(programmatic dependent launch), and waits before it touches memory that others write.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LARGEST_FP8: tl.constexpr = tl.constexpr(448.0)
"""The largest number of e4m3."""
SMALLEST_SCALE: tl.constexpr = tl.constexpr(1e-12)
"""A row of zeros must stay zero, not become 0/0."""
MINUS_LOG2_E: tl.constexpr = tl.constexpr(-1.4426950408889634)


@triton.jit
def take_turn(EARLY: tl.constexpr) -> None:
    """Let the next kernel be brought up, and wait for the one before. Every kernel must: the next
    one takes its end for the end of all before it."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def scale_of(largest: tl.tensor) -> tl.tensor:
    """The FP8 scale of numbers whose magnitudes `largest` bounds."""
    return tl.maximum(largest / LARGEST_FP8, SMALLEST_SCALE)


@triton.jit
def summed(
    x: tl.tensor, delta: tl.tensor, at: tl.tensor, inside: tl.tensor, ADDS: tl.constexpr
) -> tl.tensor:
    """Numbers of `x`, with `delta` added in place (if ADDS)."""
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        values += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(x.dtype.element_ty)
        tl.store(x + at, rounded, mask=inside)
        values = rounded.to(tl.float32)
    return values


@triton.jit
def norm_kernel(
    x: tl.tensor,
    delta: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    epsilon: tl.tensor,
    width: tl.tensor,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    ADDS: tl.constexpr,
    QUANTISES: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Add `delta` to the rows of `x` in place (if ADDS), and write their RMS norm, in FP8 with a
    scale each if QUANTISES; FIRST + REST columns hold a row."""
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    first, rest = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    begin = row * width
    left = summed(x, delta, begin + first, first < FIRST, ADDS)
    right = summed(x, delta, begin + rest, rest < width, ADDS)
    squares = tl.sum(left * left, 0) + tl.sum(right * right, 0)
    left *= tl.load(weight + first).to(tl.float32)
    right *= tl.load(weight + rest, mask=rest < width, other=0.0).to(tl.float32)
    factor = tl.rsqrt(squares / width + epsilon)
    if QUANTISES:
        largest = tl.maximum(tl.max(tl.abs(left), 0), tl.max(tl.abs(right), 0))
        scale = scale_of(largest * factor)
        tl.store(scales + row, scale)
        factor /= scale
    to = out + begin
    tl.store(to + first, (left * factor).to(out.dtype.element_ty))
    tl.store(to + rest, (right * factor).to(out.dtype.element_ty), mask=rest < width)


@triton.jit(do_not_specialize=["begin"])
def quantise_kernel(
    x: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    begin: tl.tensor,
    width: tl.tensor,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Write rows in FP8, each with its scale, from row `begin` of `out` on."""
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = scale_of(tl.max(tl.abs(values), 0))
    to = begin + row
    tl.store(scales + to, scale)
    tl.store(out + to * width + columns, (values / scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def inverse(x: tl.tensor) -> tl.tensor:
    """1 / x to a unit in the last place, in one instruction where a division takes ten."""
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def gated(x: tl.tensor, row: tl.tensor, columns: tl.tensor, width: tl.tensor) -> tl.tensor:
    """silu(gate) * up at some columns of a row [gate, up] of 2 * width numbers."""
    inside = columns < width
    at = x + row * 2 * width + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    return gate * up * inverse(1.0 + tl.exp2(gate * MINUS_LOG2_E))


@triton.jit
def gate_kernel(
    x: tl.tensor, out: tl.tensor, width: tl.tensor, WIDTH: tl.constexpr, EARLY: tl.constexpr
) -> None:
    """SwiGLU of rows, WIDTH columns at a time."""
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    values = gated(x, row, columns, width)
    tl.store(out + row * width + columns, values.to(out.dtype.element_ty), mask=columns < width)


@triton.jit
def gate_quantise_kernel(
    x: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    width: tl.tensor,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """SwiGLU of rows, in FP8 with a scale each; FIRST + REST columns hold a row."""
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    first, rest = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    left, right = gated(x, row, first, width), gated(x, row, rest, width)
    largest = tl.maximum(tl.max(tl.abs(left), 0), tl.max(tl.abs(right), 0))
    scale = scale_of(largest)
    tl.store(scales + row, scale)
    factor = 1.0 / scale
    to = out + row * width
    tl.store(to + first, (left * factor).to(out.dtype.element_ty))
    tl.store(to + rest, (right * factor).to(out.dtype.element_ty), mask=rest < width)


@triton.jit
def rotate_kernel(
    x: tl.tensor,
    positions: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    norm: tl.tensor,
    values: tl.tensor,
    largest: tl.tensor,
    epsilon: tl.tensor,
    stride: tl.tensor,
    width: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    VALUES: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """RMS norm and RoPE over HEADS heads of a token, in place.

    If VALUES, `largest` gets the largest magnitude among the token's `width` values in `values`, of
    which VALUES columns hold a row.
    """
    take_turn(EARLY)
    token = tl.program_id(0).to(tl.int64)
    if VALUES:
        columns = tl.arange(0, VALUES)
        row = tl.load(values + token * stride + columns, mask=columns < width, other=0.0)
        tl.store(largest + token, tl.max(tl.abs(row.to(tl.float32)), 0))
    half = tl.arange(0, HALF)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    at = x + token * stride + heads[:, None] * (2 * HALF) + half[None, :]
    first = tl.load(at).to(tl.float32)
    second = tl.load(at + HALF).to(tl.float32)
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    factor = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
    first = first * factor * tl.load(norm + half).to(tl.float32)[None, :]
    second = second * factor * tl.load(norm + HALF + half).to(tl.float32)[None, :]
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
    EARLY: tl.constexpr,
) -> None:
    """RMS norm of rows, then length 1, in float32; a row that is not finite has a NaN somewhere."""
    take_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    at = row * width + columns
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / width + epsilon)
    normed *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt_rn(tl.sum(normed * normed, 0))
    tl.store(out + at, tl.div_rn(normed, length), mask=inside)
