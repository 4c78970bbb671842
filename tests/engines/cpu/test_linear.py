"""Linear layers in float32 and int8, run by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedfleet.engines.tensors import Floats, Matrix, Tensor
from embedfleet.runtime.machine import multiplies_int8_exactly

ov = pytest.importorskip("openvino", reason="OpenVINO, an extra, is not installed")

from embedfleet.engines.cpu.attention import parameter  # noqa: E402
from embedfleet.engines.cpu.linear import FloatLinear, Input, Int8Linear, Linear  # noqa: E402

needs_int8 = pytest.mark.skipif(
    not multiplies_int8_exactly(), reason="OpenVINO's int8 takes VNNI or AMX"
)

TOKENS, WIDTH, INNER = 7, 64, 96
RNG = np.random.default_rng(3)
KINDS = (
    pytest.param(FloatLinear(), 1e-5, id="f32"),
    pytest.param(Int8Linear(), 0.02, id="int8", marks=needs_int8),
)


def matrix(rows: int, columns: int) -> Matrix:
    values = RNG.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)
    return Matrix(Tensor("w", "F32", values.astype(np.float32)))


GATE, UP, DOWN = matrix(INNER, WIDTH), matrix(INNER, WIDTH), matrix(WIDTH, INNER)


def run(linear: Linear, build: Callable[[Input], Any], x: Floats) -> NDArray[np.float32]:
    states = parameter("x", [-1, WIDTH], np.float32)
    model = ov.Model([build(linear.ready(states))], [states])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    computed: NDArray[np.float32] = compiled(x)[0]
    return computed


def activations() -> Floats:
    """Tokens of very different magnitude, one of them zero."""
    x = RNG.standard_normal((TOKENS, WIDTH), dtype=np.float32)
    x *= np.logspace(-2, 2, TOKENS, dtype=np.float32)[:, None]
    x[3] = 0
    return x


def assert_rows_close(found: Floats, expected: Floats, tolerance: float) -> None:
    """Within `tolerance` of each row's own largest value."""
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= tolerance * largest).all()


@pytest.mark.parametrize(("linear", "tolerance"), KINDS)
def test_every_token_is_as_exact_as_any_other_whatever_its_magnitude(
    linear: Linear, tolerance: float
) -> None:
    x = activations()
    found = run(linear, lambda ready: ready.times(linear.weight(UP)), x)
    assert_rows_close(found, x @ UP.floats().T, tolerance)


@pytest.mark.parametrize(("linear", "tolerance"), KINDS)
def test_a_gated_product_is_ready_for_the_next_matrix(linear: Linear, tolerance: float) -> None:
    x = activations()

    def build(ready: Input) -> Any:
        gate, up, down = (linear.weight(weight) for weight in (GATE, UP, DOWN))
        return ready.gated(gate, up).times(down)

    gate = (x @ GATE.floats().T).astype(np.float64)
    with np.errstate(over="ignore"):
        gated = gate / (1 + np.exp(-gate)) * (x @ UP.floats().T)
    expected = (gated @ DOWN.floats().T).astype(np.float32)
    assert_rows_close(run(linear, build, x), expected, 2 * tolerance)


def test_a_large_matrix_is_quantised_row_by_row_like_a_small_one() -> None:
    weight = matrix(1_000, 300)
    np.asarray(weight.tensor.stored)[17] = 0
    values, scales = weight.int8()
    floats = weight.floats()
    others = np.arange(1_000) != 17
    np.testing.assert_allclose(scales[others, 0] * 127, np.abs(floats[others]).max(axis=1))
    assert (np.abs(values[others]).max(axis=1) == 127).all()
    assert scales[17, 0] > 0
    assert not values[17].any()
    assert (np.abs(values * scales - floats) <= scales * 0.5001).all()
