"""The Qwen3 graph in OpenVINO operations, in patterns that the CPU plugin fuses.

Texts are concatenated in one matrix [tokens, hidden] without padding. Every dimension except the
model's own is dynamic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import openvino.opset13 as ops

from embedfleet.engines.cpu.attention import Attention, integers, parameter, rows
from embedfleet.engines.cpu.linear import Linear
from embedfleet.engines.qwen3 import LayerWeights, Qwen3Config
from embedfleet.engines.tensors import Matrix

Node: TypeAlias = Any  # OpenVINO ships no types


@dataclass(frozen=True, slots=True)
class LayerConstants:
    """The weights of a layer as constants of the graph; named as in LayerWeights."""

    input_norm: Node
    query: Node
    key: Node
    value: Node
    query_norm: Node
    key_norm: Node
    output: Node
    mlp_norm: Node
    gate: Node
    up: Node
    down: Node


def constants(weights: LayerWeights, linear: Linear) -> LayerConstants:
    """Read a layer's weights into memory, in the form that `linear` computes with."""
    found = {name: getattr(weights, name) for name in LayerConstants.__dataclass_fields__}
    return LayerConstants(
        **{
            name: linear.weight(weight) if isinstance(weight, Matrix) else ops.constant(weight)
            for name, weight in found.items()
        }
    )


@dataclass(frozen=True, slots=True)
class Decoder:
    """Builds decoder layers over the same inputs."""

    config: Qwen3Config
    linear: Linear
    attention: Attention
    rotation: Rotation

    def layer(self, x: Node, weights: LayerConstants, pooled: Node | None = None) -> Node:
        """One layer, [tokens, hidden] to [tokens, hidden].

        With `pooled` (row numbers [texts]) only those rows come out, [texts, hidden]: keys and
        values are computed for all tokens, queries and all behind them for the pooled rows alone.
        """
        config, rotation = self.config, self.rotation
        normed = rms_norm(x, weights.input_norm, config.epsilon)
        ready = self.linear.ready(normed)
        keys = self._heads(ready.times(weights.key), config.kv_heads)
        keys = _flat(rotation.of(rms_norm(keys, weights.key_norm, config.epsilon)))
        values = ready.times(weights.value)
        if pooled is not None:
            x, ready = rows(x, pooled), self.linear.ready(rows(normed, pooled))
            rotation = rotation.at(pooled)
        queries = self._heads(ready.times(weights.query), config.heads)
        queries = _flat(rotation.of(rms_norm(queries, weights.query_norm, config.epsilon)))
        attended = self.attention.attend(queries, keys, values, pooled)
        return self._mlp(ops.add(x, self.linear.ready(attended).times(weights.output)), weights)

    def _mlp(self, x: Node, weights: LayerConstants) -> Node:
        ready = self.linear.ready(rms_norm(x, weights.mlp_norm, self.config.epsilon))
        return ops.add(x, ready.gated(weights.gate, weights.up).times(weights.down))

    def _heads(self, x: Node, heads: int) -> Node:
        return ops.reshape(x, integers(-1, heads, self.config.head_dim), special_zero=False)


def rms_norm(x: Node, weight: Node, epsilon: float) -> Node:
    """Over the last axis; becomes the plugin's RMS node."""
    squares = ops.reduce_mean(ops.power(x, np.float32(2)), integers(-1), keep_dims=True)
    scale = ops.divide(np.float32(1), ops.sqrt(ops.add(squares, np.float32(epsilon))))
    return ops.multiply(ops.multiply(x, scale), weight)


@dataclass(frozen=True, slots=True)
class Rotation:
    """RoPE at the positions of some tokens."""

    cosine: Node
    """[tokens, 1, 1, head_dim]"""
    sine: Node

    @classmethod
    def make(cls, config: Qwen3Config) -> Rotation:
        """At the positions that inputs of the graph tell."""
        shape = [-1, 1, 1, config.head_dim]
        return cls(parameter("cosine", shape, np.float32), parameter("sine", shape, np.float32))

    def at(self, indices: Node) -> Rotation:
        """At the positions of some of these tokens."""
        return Rotation(rows(self.cosine, indices), rows(self.sine, indices))

    def of(self, x: Node) -> Node:
        """Turn the halves of each head against each other; [tokens, heads, head_dim].

        The plugin's RoPE node takes their place only with four axes, a split along number 3, and
        a reshape before it that keeps int8 scales from moving in between.
        """
        heads, width = (x.output(0).partial_shape[axis].get_length() for axis in (1, 2))
        half, x = width // 2, ops.reshape(x, integers(-1, heads, 1, width), special_zero=False)
        parts = ops.variadic_split(x, ops.constant(np.int64(3)), integers(half, half))
        turned = ops.concat([ops.multiply(parts.output(1), np.float32(-1)), parts.output(0)], -1)
        return ops.add(ops.multiply(x, self.cosine), ops.multiply(turned, self.sine))


def _flat(x: Node) -> Node:
    heads, width = (x.output(0).partial_shape[axis].get_length() for axis in (1, 3))
    return ops.reshape(x, integers(-1, heads * width), special_zero=False)
