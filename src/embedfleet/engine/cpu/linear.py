"""Linear layers in OpenVINO's operations: float32, or int8 weights and activations.

Decides how a weight matrix and its input are turned into a multiplication that the CPU plugin
runs fast. Refuses to know where in the model it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import openvino.opset13 as ops  # type: ignore[import-untyped]

from embedfleet.engine.tensors import Matrix

Node: TypeAlias = Any  # OpenVINO ships no types


class Input(Protocol):
    """Activations, made ready once for all the matrices that they meet."""

    def times(self, weight: Matrix) -> Node:
        """[tokens, in] times the transposed weight [out, in]: [tokens, out]."""
        ...


class Linear(Protocol):
    """A kind of linear layer."""

    def __call__(self, x: Node) -> Input: ...


@dataclass(frozen=True, slots=True)
class FloatInput:
    """Exact float32."""

    x: Node

    def times(self, weight: Matrix) -> Node:
        return ops.matmul(self.x, ops.constant(weight.floats()), False, True)


@dataclass(frozen=True, slots=True)
class Int8Input:
    """Int8 activations with one scale per token, int8 weights with one scale per output row.

    The plugin only knows quantisation to ranges fixed in the graph. Dividing each token by its
    largest magnitude first makes the fixed range [-1, 1] right for every token: exact symmetric
    per-token quantisation, without calibration, that runs in its int8 kernels.
    """

    unit: Node
    scale: Node

    def times(self, weight: Matrix) -> Node:
        values, scales = weight.int8()
        wide = ops.multiply(ops.convert(ops.constant(values), np.float32), ops.constant(scales))
        return ops.multiply(ops.matmul(self.unit, wide, False, True), self.scale)


def int8_input(x: Node) -> Int8Input:
    """Quantise activations [tokens, in] per token."""
    last = np.array([-1], dtype=np.int64)
    highest = ops.reduce_max(x, last, keep_dims=True)
    lowest = ops.reduce_min(x, last, keep_dims=True)  # two reductions cost less than abs and one
    largest = ops.maximum(highest, ops.negative(lowest))
    # A token of zeros must stay zero, not become 0/0.
    scale = ops.maximum(largest, np.float32(1e-20))
    low, high = np.float32(-1), np.float32(1)
    unit = ops.fake_quantize(ops.divide(x, scale), low, high, low, high, 255)
    return Int8Input(unit, scale)
