"""RoPE angles: one table for all engines, at the reference's precision."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from embedfleet.engines.tensors import Floats

_POSITIONS_AT_ONCE: Final = 1_024
"""Whose angles are float64 at the same time: half a MiB."""


class Rotating(Protocol):
    """What angles depend on."""

    @property
    def head_dim(self) -> int: ...

    @property
    def rope_theta(self) -> float: ...


def cosines_and_sines(config: Rotating, positions: int) -> tuple[Floats, Floats]:
    """Of the angles at the first `positions` positions, each [positions, head_dim / 2]."""
    # Rounded to float32 before they meet positions, as the reference does: at position 30,000 the
    # rounding turns angles visibly.
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.float64(config.rope_theta) ** exponents).astype(np.float32)
    cosines = np.empty((positions, len(frequencies)), np.float32)
    sines = np.empty_like(cosines)
    # Some positions at a time: all of them would take five times the tables for a moment, and of
    # what is freed malloc keeps up to 64 MiB, which no budget of a pass has reckoned with.
    for start in range(0, positions, _POSITIONS_AT_ONCE):
        part = slice(start, start + _POSITIONS_AT_ONCE)
        some = np.arange(start, min(part.stop, positions), dtype=np.float32)
        # The product in float32, like the reference; cosine and sine of it exactly.
        angles = (some[:, None] * frequencies).astype(np.float64)
        cosines[part], sines[part] = np.cos(angles), np.sin(angles)
    return cosines, sines


class Tables:
    """Cosines and sines of the positions so far; they grow to the longest text seen."""

    def __init__(self, config: Rotating) -> None:
        self._config = config
        self._tables = cosines_and_sines(config, 512)

    def up_to(self, positions: int) -> tuple[Floats, Floats]:
        """Of at least `positions` positions, each [.., head_dim / 2]. Threads may share them."""
        tables = self._tables
        if positions > len(tables[0]):
            # Two threads may both get here, and either's tables will do: one store, one pair.
            longer = 1 << (positions - 1).bit_length()
            self._tables = tables = cosines_and_sines(self._config, longer)
        return tables
