"""Linear layers as OpenVINO operations: float32, or int8 weights and activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import openvino.opset13 as ops

from embedfleet.engines.tensors import Matrix

Node: TypeAlias = Any  # OpenVINO ships no types


class Input(Protocol):
    """Activations, made ready once for all the matrices that they meet."""

    def times(self, weight: Node) -> Node:
        """[tokens, in] times the transposed weight [out, in]: [tokens, out]."""
        ...

    def gated(self, gate: Node, up: Node) -> Input:
        """Make swish(x gate) * (x up) ready, [tokens, out]."""
        ...


class Linear(Protocol):
    """A kind of linear layer."""

    def weight(self, matrix: Matrix) -> Node:
        """The matrix as a constant; takes the time of reading it. Threads may do several."""
        ...

    def ready(self, x: Node) -> Input:
        """Make activations [tokens, in] ready."""
        ...


@dataclass(frozen=True, slots=True)
class FloatInput:
    """Activations in float32."""

    x: Node

    def times(self, weight: Node) -> Node:
        return ops.matmul(self.x, weight, False, True)

    def gated(self, gate: Node, up: Node) -> Input:
        return FloatInput(ops.multiply(ops.swish(self.times(gate)), self.times(up)))


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """Exact float32."""

    def weight(self, matrix: Matrix) -> Node:
        return ops.constant(matrix.floats(), shared_memory=True)

    def ready(self, x: Node) -> Input:
        return FloatInput(x)


@dataclass(frozen=True, slots=True)
class Int8Input:
    """Int8 activations with one scale per token, int8 weights with one scale per output row.

    The plugin only knows quantisation to ranges fixed in the graph. Dividing each token by its
    largest magnitude first makes the fixed range [-1, 1] right for every token: exact symmetric
    per-token quantisation, without calibration, that runs in its int8 kernels.
    """

    unit: Node
    scale: Node
    """Of each token, [tokens, 1]."""

    def times(self, weight: Node) -> Node:
        return ops.multiply(self._unscaled(weight), self.scale)

    def gated(self, gate: Node, up: Node) -> Input:
        # The second product is left without its scale until after the matrix that follows: a
        # multiplication of [tokens, 1] in place of one of [tokens, out].
        product = ops.multiply(ops.swish(self.times(gate)), self._unscaled(up))
        ready = _quantised(product)
        return Int8Input(ready.unit, ops.multiply(ready.scale, self.scale))

    def _unscaled(self, weight: Node) -> Node:
        return ops.matmul(self.unit, weight, False, True)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """Int8 weights and activations."""

    def weight(self, matrix: Matrix) -> Node:
        values, scales = matrix.int8()
        # What is mapped from a file can't be lent to OpenVINO: it asks for writable memory.
        constant = ops.constant(values, shared_memory=values.flags.writeable)
        return ops.multiply(ops.convert(constant, np.float32), ops.constant(scales))

    def ready(self, x: Node) -> Input:
        return _quantised(x)


def _quantised(x: Node) -> Int8Input:
    last = np.array([-1], dtype=np.int64)
    highest = ops.reduce_max(x, last, keep_dims=True)
    lowest = ops.reduce_min(x, last, keep_dims=True)  # two reductions cost less than abs and one
    largest = ops.maximum(highest, ops.negative(lowest))
    # A token of zeros must stay zero, not become 0/0.
    scale = ops.maximum(largest, np.float32(1e-20))
    low, high = np.float32(-1), np.float32(1)
    unit = ops.fake_quantize(ops.divide(x, scale), low, high, low, high, 255)
    return Int8Input(unit, scale)
