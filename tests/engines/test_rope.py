"""The tables of angles: their numbers, and the memory that it takes to make them."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest

from embedfleet.engines.rope import Tables, cosines_and_sines


@dataclass(frozen=True)
class Angles:
    head_dim: int = 128
    rope_theta: float = 1e6


@pytest.mark.parametrize("positions", [1, 512, 1_023, 1_024, 1_025, 5_000])
def test_each_position_has_the_cosines_and_sines_of_its_angles_in_float32(positions: int) -> None:
    cosines, sines = cosines_and_sines(Angles(), positions)
    exponents = np.arange(0, 128, 2, dtype=np.float32) / np.float32(128)
    frequencies = (1.0 / np.float64(1e6) ** exponents).astype(np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    assert cosines.dtype == sines.dtype == np.float32
    np.testing.assert_array_equal(cosines, np.cos(angles.astype(np.float64)).astype(np.float32))
    np.testing.assert_array_equal(sines, np.sin(angles.astype(np.float64)).astype(np.float32))


def test_tables_for_a_long_text_take_hardly_more_memory_than_they_keep() -> None:
    """In bytes that NumPy asks for, so that it is the same on any machine.

    What is freed again stays with malloc, beside the budget of the pass that follows.
    """
    tables = Tables(Angles())
    tracemalloc.start()
    try:
        kept = sum(table.nbytes for table in tables.up_to(20_000))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept == 2 * 32_768 * 64 * 4
    assert most < 1.2 * kept
