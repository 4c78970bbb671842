"""Packing: numbers of `Matrix.int8()` by groups, and of `Matrix.floats()`, in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedfleet.engines.native.library import InstructionSet, address, load
from embedfleet.engines.native.weights import Packer, Panels, WeightBuffer
from embedfleet.engines.tensors import Floats, Matrix, Tensor
from embedfleet.vocabulary import Precision
from tests.checkpoints import bfloat16_bits, int8_rows
from tests.engines.kernels import SETS, needs_native

pytestmark = needs_native

SHAPES = ((32, 64), (64, 128), (96, 192), (320, 896), (1_056, 320))


def matrix(kind: str, shape: tuple[int, int], seed: int = 0) -> Matrix:
    """Rows of very different magnitude, one of zeros."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.logspace(-3, 2, shape[0], dtype=np.float32)[:, None]
    values[shape[0] // 2] = 0
    if kind == "BF16":
        return Matrix(Tensor("w", kind, bfloat16_bits(values)))
    if kind == "I8":
        values[shape[0] // 2, 0] = 1  # whose scale would be zero
        quantised, scales = int8_rows(values)
        return Matrix(Tensor("w", kind, quantised), scales)
    return Matrix(Tensor("w", kind, values.astype(np.float16 if kind == "F16" else np.float32)))


@pytest.fixture(params=[one for one in SETS if one.runs], ids=lambda one: one.name)
def instructions(request: pytest.FixtureRequest) -> InstructionSet:
    found: InstructionSet = request.param
    return found


def packed(matrix: Matrix, precision: Precision, instructions: InstructionSet) -> Panels:
    packer = Packer(load(), instructions, precision)
    panels = packer.empty(matrix, WeightBuffer(packer.size(matrix)))
    packer.pack(matrix, panels)
    return panels


def panels_of_int8(values: NDArray[np.int8], instructions: InstructionSet) -> NDArray[np.int8]:
    """As `pack.c` says: [out / panel][in / together][panel][together]."""
    out, in_ = values.shape
    panel, together = instructions.byte_panel, instructions.together
    shaped = values.reshape(out // panel, panel, in_ // together, together)
    return shaped.transpose(0, 2, 1, 3).reshape(-1)


def quantised(weight: Matrix) -> tuple[NDArray[np.int8], Floats]:
    """Values, and scales [out, groups] of every 256 inputs."""
    begins = range(0, weight.shape[1], 256)
    if weight.scales is not None:  # what is stored as int8 stays so
        values, scales = weight.int8()
        return values, np.repeat(scales, len(begins), axis=1)
    floats = weight.floats()
    groups = [Matrix(Tensor("w", "F32", floats[:, begin : begin + 256])).int8() for begin in begins]
    return np.hstack([values for values, _ in groups]), np.hstack([scales for _, scales in groups])


def panels_of_factors(factors: NDArray[Any], panel: int) -> NDArray[Any]:
    """As `model.h` says: [out / panel][groups][panel]."""
    return factors.reshape(len(factors) // panel, panel, -1).transpose(0, 2, 1).reshape(-1)


def sums_of_groups(values: NDArray[np.int8], offset: int) -> NDArray[np.int32]:
    """Of every 256 inputs, times the offset; [out, groups]."""
    wide = offset * values.astype(np.int32)
    return np.add.reduceat(wide, np.arange(0, values.shape[1], 256), axis=1)


def panels_of_floats(values: Floats, panel: int) -> Floats:
    """As `pack.c` says: [out / panel][in][panel]."""
    out, in_ = values.shape
    return values.reshape(out // panel, panel, in_).transpose(0, 2, 1).reshape(-1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["BF16", "F16", "F32", "I8"])
def test_int8_is_to_the_bit_that_of_the_matrix(
    kind: str, shape: tuple[int, int], instructions: InstructionSet
) -> None:
    weight = matrix(kind, shape)
    values, scales = quantised(weight)
    panels = packed(weight, Precision.INT8, instructions)
    width, sums = instructions.byte_panel, sums_of_groups(values, instructions.offset)
    np.testing.assert_array_equal(panels.packed, panels_of_int8(values, instructions))
    np.testing.assert_array_equal(panels.scales, panels_of_factors(scales, width))
    np.testing.assert_array_equal(panels.sums, panels_of_factors(sums, width))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["BF16", "F16", "F32", "I8"])
def test_floats_are_to_the_bit_those_of_the_matrix(
    kind: str, shape: tuple[int, int], instructions: InstructionSet
) -> None:
    weight = matrix(kind, shape)
    panels = packed(weight, Precision.F32, instructions)
    expected = panels_of_floats(weight.floats(), instructions.float_panel)
    np.testing.assert_array_equal(panels.packed, expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([one for one in SETS if one.runs] or SETS))
def test_any_finite_bfloat16_is_quantised_like_in_python(
    seed: int, instructions: InstructionSet
) -> None:
    """All exponents: tiny rows whose quotients are inexact, halves that are rounded to even."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 16, (32, 64)).astype(np.uint16)
    bits[(bits & 0x7F80) == 0x7F80] = 0  # no Inf, no NaN
    spread = rng.integers(1, 255)
    bits = np.where((bits >> 7 & 0xFF) > spread, bits & 0x807F, bits).astype(np.uint16)
    weight = Matrix(Tensor("w", "BF16", bits))
    panels = packed(weight, Precision.INT8, instructions)
    values, scales = quantised(weight)
    expected = panels_of_factors(scales, instructions.byte_panel)
    np.testing.assert_array_equal(panels.scales, expected)
    np.testing.assert_array_equal(panels.packed, panels_of_int8(values, instructions))


@pytest.mark.parametrize("kind", ["BF16", "F32"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_shows_in_the_scale_of_its_group(
    broken: float, kind: str, instructions: InstructionSet
) -> None:
    """A damaged checkpoint must not give vectors that look like some."""
    values = np.ones((32, 320), np.float32)
    values[3, 260] = broken
    stored = bfloat16_bits(values) if kind == "BF16" else values
    panels = packed(Matrix(Tensor("w", kind, stored)), Precision.INT8, instructions)
    scales = panels.scales.reshape(-1, 2, instructions.byte_panel)
    assert np.argwhere(~np.isfinite(scales)).tolist() == [[0, 1, 3]]


def test_numbers_at_an_odd_address_are_packed_too(instructions: InstructionSet) -> None:
    weight = matrix("BF16", (32, 64))
    content = b"x" + np.asarray(weight.tensor.stored).tobytes()
    odd = np.frombuffer(content, np.uint16, 32 * 64, offset=1).reshape(32, 64)
    assert not odd.flags.aligned
    panels = packed(Matrix(Tensor("w", "BF16", odd)), Precision.INT8, instructions)
    expected = packed(weight, Precision.INT8, instructions)
    np.testing.assert_array_equal(panels.packed, expected.packed)


def test_arrays_begin_at_cache_lines_and_do_not_overlap() -> None:
    memory = WeightBuffer(4_096)
    arrays = [memory.take(count, np.float32) for count in (1, 16, 17, 0, 3)]
    begins = [address(array) for array in arrays]
    assert all(begin % 64 == 0 for begin in begins)
    assert np.diff(begins).tolist() == [64, 64, 128, 0]
