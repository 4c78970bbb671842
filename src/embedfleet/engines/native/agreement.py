"""Measures how closely int8 agrees with float32 for a model, when it is loaded.

Some models don't tolerate int8: where activations or weights of a group differ by orders of
magnitude, the small ones vanish. A few texts pass through the first layers in both precisions, and
the states of all their tokens are compared (any of a decoder's may be a text's last; an encoder's
are averaged). In float32 one layer at a time is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np

from embedfleet.engines.architectures import Checkpoint, Geometry
from embedfleet.engines.native.library import InstructionSet, Kernels
from embedfleet.engines.native.model import Model
from embedfleet.engines.native.weights import Packer, Weights
from embedfleet.engines.passes import positions_of
from embedfleet.engines.tensors import Floats
from embedfleet.vocabulary import Pooling, Precision

LEAST_MEAN: Final = 0.99
LEAST: Final = 0.98
"""The cosines to float32 that int8 must reach to be chosen automatically."""
_LENGTHS: Final = (4, 16, 48, 96, 32)
_WEIGHTS: Final = 250_000_000
"""About so many are gone through in float32: two seconds of two processors."""
_LEAST_SHARE: Final = 1 / 8
"""Of the layers of a large model, whose loading takes longer."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cosines between int8 and float32, after all layers."""

    mean: float
    least: float
    layers: int
    """How many were compared; what the others add is taken to be as much a layer."""

    @property
    def suffices(self) -> bool:
        """Whether int8 is near enough to float32; never where a cosine is no number."""
        return self.mean >= LEAST_MEAN and self.least >= LEAST


def depth_of(config: Geometry) -> int:
    """Of how many layers it is found out: the same on every machine, so that all choose alike."""
    keys, queries = (heads * config.head_dim for heads in (config.kv_heads, config.heads))
    layer = config.hidden * (2 * queries + 2 * keys + 3 * config.intermediate)
    affordable = max(_WEIGHTS / (layer * config.layers), _LEAST_SHARE)
    return ceil(config.layers * min(1.0, affordable))


def agreement(
    checkpoint: Checkpoint,
    kernels: Kernels,
    instructions: InstructionSet,
    int8: Weights,
    threads: int,
    *,
    bfloat16: bool,
) -> Agreement:
    """Compare packed weights in int8 with their checkpoint in float32. Raises MemoryError."""
    config = checkpoint.config
    depth = depth_of(config)
    rng = np.random.default_rng(0)
    lengths = [min(length, config.max_positions) for length in _LENGTHS]
    ids = rng.integers(0, config.vocabulary, sum(lengths)).astype(np.int32)
    begins = np.cumsum([0, *lengths], dtype=np.int32)
    angles = checkpoint.angles()
    tables = None if angles is None else angles.up_to(max(lengths))
    embedded = np.ascontiguousarray(checkpoint.embed(ids, positions_of(begins)))
    # All states of a pass are after the last layer but one where of the last one token's is wanted.
    one = Pooling.LAST
    exact = embedded.copy()
    packer = Packer(kernels, instructions, Precision.F32)
    for layer in range(depth):
        weights = Weights(checkpoint, packer, threads, [layer])
        model = Model(
            checkpoint, packer, weights, threads, bfloat16=False, order=[0, 0], pooling=one
        )
        model.run(begins, exact, tables)
        model.close()
        del model, weights  # before the next layer's are made: these are the most memory of loading
    quick = embedded
    packer = Packer(kernels, instructions, Precision.INT8)
    order = [*range(depth), 0]
    model = Model(checkpoint, packer, int8, threads, bfloat16=bfloat16, order=order, pooling=one)
    model.run(begins, quick, tables)
    model.close()
    if checkpoint.final_norm is not None:
        exact, quick = exact * checkpoint.final_norm, quick * checkpoint.final_norm
    return _agreement(exact, quick, config, depth)


def _agreement(exact: Floats, quick: Floats, config: Geometry, depth: int) -> Agreement:
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(quick, axis=1)
        lost = 1 - np.einsum("ij,ij->i", exact, quick) / lengths
    lost *= config.layers / depth
    return Agreement(1 - float(lost.mean()), 1 - float(lost.max()), depth)
