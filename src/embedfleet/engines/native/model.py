"""A model opened by the native kernels over packed weights, and its memory's lifetime."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedfleet.engines.architectures import Checkpoint
from embedfleet.engines.native.library import (
    FLOAT,
    FORWARDS,
    INT8,
    POOLINGS,
    PackedLayer,
    Shape,
    address,
)
from embedfleet.engines.native.weights import Packer, Weights
from embedfleet.engines.tensors import Floats
from embedfleet.vocabulary import Pooling, Precision

Sharing: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Of each text of a pass, how many of its first tokens have no rows, and whose keys and values they
take; see `kernels/model.h`."""


class Model:
    """Threads over weights. One call at a time; other Python threads run meanwhile."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        packer: Packer,
        weights: Weights,
        threads: int,
        *,
        bfloat16: bool,
        order: Sequence[int] | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        """Start `threads` threads, of which whoever calls `run` is one.

        `bfloat16`: whether attention of int8 multiplies it. `order`: which of the weights' layers
        follow each other, by default all of them. `pooling`: by default the checkpoint's. Raises
        MemoryError.
        """
        kernels = packer.kernels.functions
        self._kernels, self._hidden = kernels, checkpoint.config.hidden
        norm = None if weights.final_norm is None else address(weights.final_norm)
        taken = [weights.layers[index] for index in (order or range(len(weights.layers)))]
        shape = _shape(checkpoint, packer, bfloat16=bfloat16)
        shape.layers, shape.pooling = len(taken), POOLINGS[pooling or checkpoint.pooling]
        layers = (PackedLayer * len(taken))(*taken)
        self._model = kernels.embedfleet_open(shape, layers, norm, threads)
        if not self._model:
            raise MemoryError(f"not enough memory for a model on {threads} threads, or no threads")
        # An engine that is not closed must not leak its threads. The finalizer holds the
        # weights, which are read until then.
        self._close = weakref.finalize(self, _close, kernels, self._model, weights)
        self._close.atexit = False  # a thread may still compute, and the process is exiting anyway

    @property
    def is_open(self) -> bool:
        return self._close.alive

    def run(
        self,
        begins: NDArray[np.int32],
        states: Floats,
        tables: tuple[Floats, Floats] | None,
        sharing: Sharing | None = None,
    ) -> Floats:
        """Final states of each text, pooled, [texts, hidden]; `states` are overwritten.

        `begins` [texts + 1] are the rows at which texts begin, `tables` RoPE's where the family has
        angles. Raises MemoryError.
        """
        texts = len(begins) - 1
        final = np.empty((texts, self._hidden), np.float32)
        turning = (None, None) if tables is None else map(address, tables)
        borrowed = (None, None) if sharing is None else map(address, sharing)
        pointers = [address(begins), *borrowed, address(states), *turning, address(final)]
        if self._kernels.embedfleet_run(self._model, texts, *pointers):
            raise MemoryError(f"not enough memory for a pass of {len(states)} tokens")
        return final

    def release_memory(self) -> None:
        """Release memory that a large run allocated."""
        self._kernels.embedfleet_release(self._model)

    def close(self) -> None:
        """Stop threads and release memory; idempotent."""
        self._close()


def _close(kernels: ctypes.CDLL, model: int, _weights: Weights) -> None:
    kernels.embedfleet_close(model)


def _shape(checkpoint: Checkpoint, packer: Packer, *, bfloat16: bool) -> Shape:
    config = checkpoint.config
    return Shape(
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        intermediate=config.intermediate,
        epsilon=config.epsilon,
        forward=FORWARDS[checkpoint.forward],
        pooling=POOLINGS[checkpoint.pooling],
        kind=FLOAT if packer.precision is Precision.F32 else INT8,
        set=packer.instructions.number,
        bfloat16=bfloat16,
    )
