"""Triton kernel for matrix products with few rows, which are bound by reading the matrix.

A block computes some outputs for all rows, from all inputs or a part of them, and prefetches its
first weights before the previous kernel has finished. Partial sums are added in a fixed order by
whichever block finishes last, so results are deterministic.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def ask_for(begin: tl.tensor, size: tl.tensor) -> None:
    """Have `size` bytes, a multiple of 16, from each address in `begin` brought to the L2 cache."""
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r",
        [begin.to(tl.int64), tl.zeros(begin.shape, tl.int32) + size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def ask_early(
    weight: tl.tensor,
    part: tl.tensor,
    outputs: tl.tensor,
    ahead: tl.tensor,
    OUTPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    SHARE: tl.constexpr,
    THREADS: tl.constexpr,
) -> None:
    """Ask for the first `ahead` numbers of each of this block's rows, a piece for each thread."""
    EACH: tl.constexpr = THREADS // OUTPUTS
    SIZE: tl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
    piece = tl.arange(0, THREADS)
    row = tl.minimum(tl.program_id(0) * OUTPUTS + piece // EACH, outputs - 1)
    column = part * SHARE + piece % EACH * (ahead // EACH)
    ask_for(weight + row.to(tl.int64) * WIDTH + column, ahead // EACH * SIZE)


@triton.jit
def multiplied(
    x: tl.tensor,
    weight: tl.tensor,
    number: tl.tensor,
    output: tl.tensor,
    rows: tl.tensor,
    outputs: tl.tensor,
    begin: tl.tensor,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    SHARE: tl.constexpr,
) -> tl.tensor:
    """Products [rows, outputs] of the SHARE inputs from `begin` on."""
    inputs = begin + tl.arange(0, INPUTS)
    present, wanted = number[:, None] < rows, output[:, None] < outputs
    x_at = x + number[:, None] * WIDTH + inputs[None, :]
    weight_at = weight + output[:, None].to(tl.int64) * WIDTH + inputs[None, :]
    total = tl.zeros([output.shape[0], number.shape[0]], tl.float32)
    for start in tl.range(0, SHARE, INPUTS):
        weights = tl.load(weight_at + start, mask=wanted, other=0.0)
        values = tl.load(x_at + start, mask=present, other=0.0)
        total = tl.dot(weights, tl.trans(values), total)
    return tl.trans(total)


@triton.jit
def added_up(at: tl.tensor, inside: tl.tensor, step: tl.tensor, PARTS: tl.constexpr) -> tl.tensor:
    """What all parts have stored, in their order; other blocks' is in the L2 cache alone."""
    products = tl.zeros(at.shape, tl.float32)
    for part in tl.static_range(PARTS):
        products += tl.load(at + part * step, mask=inside, cache_modifier=".cg")
    return products


@triton.jit
def write(
    products: tl.tensor,
    out: tl.tensor,
    x_scales: tl.tensor,
    weight_scales: tl.tensor,
    number: tl.tensor,
    output: tl.tensor,
    rows: tl.tensor,
    outputs: tl.tensor,
    SCALES: tl.constexpr,
    ADDS: tl.constexpr,
) -> None:
    """Scale the sums, add what is in `out` already, and store them there."""
    to = out + number[:, None] * outputs + output[None, :]
    inside = (number[:, None] < rows) & (output[None, :] < outputs)
    if SCALES:
        products *= tl.load(x_scales + number, mask=number < rows, other=0.0)[:, None]
        products *= tl.load(weight_scales + output, mask=output < outputs, other=0.0)[None, :]
    if ADDS:
        products += tl.load(to, mask=inside, other=0.0).to(tl.float32)
    tl.store(to, products.to(out.dtype.element_ty), mask=inside)


# Compiled for any number of rows: captured passes do that for all that come later.
@triton.jit(do_not_specialize=["rows"])
def few_rows_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    x_scales: tl.tensor,
    weight_scales: tl.tensor,
    partial: tl.tensor,
    done: tl.tensor,
    rows: tl.tensor,
    outputs: tl.tensor,
    ahead: tl.tensor,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    SCALES: tl.constexpr,
    ADDS: tl.constexpr,
    EARLY: tl.constexpr,
    THREADS: tl.constexpr,
) -> None:
    """Products of up to ROWS rows with a matrix [outputs, WIDTH], in PARTS parts of its columns.

    With SCALES both are FP8, one scale per row and one per output; with ADDS the products are added
    to what is in `out`. `ahead` numbers of each row are asked for early. `partial` is room for
    [PARTS, ROWS, outputs] float32; `done` holds a zero for each block of outputs, afterwards too.
    """
    SHARE: tl.constexpr = WIDTH // PARTS
    part = tl.program_id(1)
    number = tl.arange(0, ROWS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    if EARLY:
        gdc_launch_dependents()
        ask_early(weight, part, outputs, ahead, OUTPUTS, WIDTH, SHARE, THREADS)
        gdc_wait()
    products = multiplied(
        *(x, weight, number, output, rows, outputs, part * SHARE, INPUTS, WIDTH, SHARE)
    )
    if PARTS > 1:
        at = partial + number[:, None] * outputs + output[None, :]
        inside = output[None, :] < outputs
        tl.store(at + part * ROWS * outputs, products, mask=inside)
        tl.debug_barrier()  # all of this block's numbers are there before it says so
        if tl.atomic_add(done + tl.program_id(0), 1, sem="acq_rel") < PARTS - 1:
            return
        products = added_up(at, inside, ROWS * outputs, PARTS)
        tl.store(done + tl.program_id(0), 0)
    write(
        *(products, out, x_scales, weight_scales, number, output, rows, outputs, SCALES, ADDS),
    )
