"""RoPE's angles: one table for all engines.

Decides at which precision positions and frequencies meet. Refuses to know how heads are turned.
"""

from __future__ import annotations

import numpy as np

from embedfleet.engine.checkpoint import Qwen3Config
from embedfleet.engine.tensors import Floats


def cosines_and_sines(config: Qwen3Config, positions: int) -> tuple[Floats, Floats]:
    """Of the angles at the first `positions` positions, each [positions, head_dim / 2]."""
    # Rounded to float32 before they meet positions, as the reference does: at position 30,000 the
    # rounding turns angles visibly.
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.float64(config.rope_theta) ** exponents).astype(np.float32)
    # The product in float32, like the reference; cosine and sine of it exactly.
    angles = (np.arange(positions, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
