"""The Qwen3 graph in OpenVINO's operations.

Decides the exact mathematics of a decoder layer, in patterns that the CPU plugin fuses. Texts lie
end to end in one matrix [tokens, hidden]: nothing is padded. Refuses to know batches and threads:
every size but the model's own is dynamic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import openvino.opset13 as ops  # type: ignore[import-untyped]
from openvino.op import _PagedAttentionExtension as PagedAttention  # type: ignore[import-untyped]

from embedfleet.engine.checkpoint import LayerWeights, Qwen3Config
from embedfleet.engine.cpu.layout import BLOCK_TOKENS
from embedfleet.engine.cpu.linear import Linear
from embedfleet.engine.tensors import Matrix

Node: TypeAlias = Any  # OpenVINO ships no types


@dataclass(frozen=True, slots=True)
class Inputs:
    """What attention must know about the texts; parameters of the graph, by these names."""

    cosine: Node
    """RoPE at each token's position, [tokens, 1, 1, head_dim]."""
    sine: Node
    keys: Node
    """Scratch [blocks, kv_heads, BLOCK_TOKENS, head_dim]; all layers may share it."""
    values: Node
    past: Node
    """Tokens of each text that are in the scratch already, [texts]."""
    begins: Node
    """Where each text's rows begin, and the end of the last, [texts + 1]."""
    blocks: Node
    """The scratch blocks of all texts, one text after another."""
    block_begins: Node
    """Where each text's blocks begin in `blocks`, [texts + 1]."""
    longest: Node
    """The longest text in tokens, past included; a scalar."""

    def all(self) -> list[Node]:
        return [getattr(self, name) for name in self.__dataclass_fields__]


def parameter(name: str, shape: list[int], dtype: type[np.generic]) -> Node:
    """Make an input of the graph; -1 is a dynamic size."""
    node = ops.parameter(shape, dtype, name=name)
    node.output(0).set_names({name})
    return node


def make_inputs(config: Qwen3Config) -> Inputs:
    width, scratch = config.head_dim, [-1, config.kv_heads, BLOCK_TOKENS, config.head_dim]
    return Inputs(
        cosine=parameter("cosine", [-1, 1, 1, width], np.float32),
        sine=parameter("sine", [-1, 1, 1, width], np.float32),
        keys=parameter("keys", scratch, np.float32),
        values=parameter("values", scratch, np.float32),
        past=parameter("past", [-1], np.int32),
        begins=parameter("begins", [-1], np.int32),
        blocks=parameter("blocks", [-1], np.int32),
        block_begins=parameter("block_begins", [-1], np.int32),
        longest=parameter("longest", [], np.int32),
    )


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
    inputs: Inputs
    linear: Linear

    def layer(self, x: Node, weights: LayerConstants, pooled: Node | None = None) -> Node:
        """One layer, [tokens, hidden] to [tokens, hidden].

        With `pooled` (row numbers [texts]) only those rows come out, [texts, hidden]: keys and
        values are computed for all tokens, queries and all behind them for the pooled rows alone.
        """
        config, rotation = self.config, Rotation(self.inputs.cosine, self.inputs.sine)
        normed = rms_norm(x, weights.input_norm, config.epsilon)
        ready = self.linear.ready(normed)
        keys = self._heads(ready.times(weights.key), config.kv_heads)
        keys = _flat(rotation.of(rms_norm(keys, weights.key_norm, config.epsilon)))
        values = ready.times(weights.value)
        if pooled is not None:
            x, ready = rows(x, pooled), self.linear.ready(rows(normed, pooled))
            rotation = Rotation(rows(self.inputs.cosine, pooled), rows(self.inputs.sine, pooled))
        queries = self._heads(ready.times(weights.query), config.heads)
        queries = _flat(rotation.of(rms_norm(queries, weights.query_norm, config.epsilon)))
        if pooled is not None:
            queries = _spread(queries, pooled, values)
        attended = self._attention(queries, keys, values)
        if pooled is not None:
            attended = rows(attended, pooled)
        return self._mlp(ops.add(x, self.linear.ready(attended).times(weights.output)), weights)

    def _mlp(self, x: Node, weights: LayerConstants) -> Node:
        ready = self.linear.ready(rms_norm(x, weights.mlp_norm, self.config.epsilon))
        return ops.add(x, ready.gated(weights.gate, weights.up).times(weights.down))

    def _heads(self, x: Node, heads: int) -> Node:
        return ops.reshape(x, _integers(-1, heads, self.config.head_dim), special_zero=False)

    def _attention(self, queries: Node, keys: Node, values: Node) -> Node:
        """Causal attention within each text, all [tokens, heads * head_dim].

        OpenVINO's paged attention computes texts of any lengths lying end to end, skips what
        causality hides, and holds no [tokens, tokens] matrix. It puts keys and values into scratch
        blocks first; as layers run one after another, all of them use the same scratch.
        """
        texts, none = self.inputs, ops.constant(np.zeros(0, dtype=np.int32))
        no_floats = ops.constant(np.zeros(0, dtype=np.float32))
        zero = ops.constant(np.int32(0))
        arguments = [queries, keys, values, texts.keys, texts.values]
        arguments += [texts.past, texts.begins, texts.blocks, texts.block_begins]
        arguments += [
            ops.constant(np.float32(self.config.head_dim**-0.5)),
            zero,  # no sliding window
            no_floats,  # no ALiBi
            texts.longest,
            none,  # no aggregated scores
            *(none, none, no_floats),  # no rotated blocks
            *(no_floats, ops.constant(np.int32(64)), ops.constant(np.int32(8))),  # nothing sparse
            no_floats,  # no attention sinks
            *(zero, none, none, none),  # no cache eviction
            none,  # no token types
            *(ops.constant(np.zeros(0, dtype=np.uint8)), none),  # no bias between queries
        ]
        node = PagedAttention([argument.output(0) for argument in arguments])
        facts = node.get_rt_info()
        facts["num_k_heads"] = facts["num_v_heads"] = self.config.kv_heads
        facts["k_head_size"] = facts["v_head_size"] = self.config.head_dim
        # The node knows its output's width only when it runs.
        width = self.config.heads * self.config.head_dim
        return ops.reshape(node.output(0), _integers(-1, width), special_zero=False)


def rms_norm(x: Node, weight: Node, epsilon: float) -> Node:
    """Over the last axis; becomes the plugin's RMS node."""
    squares = ops.reduce_mean(ops.power(x, np.float32(2)), _integers(-1), keep_dims=True)
    scale = ops.divide(np.float32(1), ops.sqrt(ops.add(squares, np.float32(epsilon))))
    return ops.multiply(ops.multiply(x, scale), weight)


def rows(x: Node, indices: Node) -> Node:
    """Rows of `x` at `indices`."""
    return ops.gather(x, indices, ops.constant(np.int64(0)))


@dataclass(frozen=True, slots=True)
class Rotation:
    """RoPE at the positions of some tokens."""

    cosine: Node
    sine: Node

    def of(self, x: Node) -> Node:
        """Turn the halves of each head against each other; [tokens, heads, head_dim].

        The plugin's RoPE node takes their place only with four axes, a split along number 3, and
        a reshape before it that keeps int8 scales from moving in between.
        """
        heads, width = (x.output(0).partial_shape[axis].get_length() for axis in (1, 2))
        half, x = width // 2, ops.reshape(x, _integers(-1, heads, 1, width), special_zero=False)
        parts = ops.variadic_split(x, ops.constant(np.int64(3)), _integers(half, half))
        turned = ops.concat([ops.multiply(parts.output(1), np.float32(-1)), parts.output(0)], -1)
        return ops.add(ops.multiply(x, self.cosine), ops.multiply(turned, self.sine))


def _flat(x: Node) -> Node:
    heads, width = (x.output(0).partial_shape[axis].get_length() for axis in (1, 3))
    return ops.reshape(x, _integers(-1, heads * width), special_zero=False)


def _spread(x: Node, indices: Node, like: Node) -> Node:
    """Rows `x` at `indices` among zeros, with as many rows as `like`.

    The attention node wants a query for every key; rows that nobody reads may be zero.
    """
    count = ops.gather(ops.shape_of(like), _integers(0), ops.constant(np.int64(0)))
    width = x.output(0).partial_shape[1].get_length()
    zeros = ops.broadcast(np.float32(0), ops.concat([count, _integers(width)], 0))
    return ops.scatter_update(zeros, indices, x, ops.constant(np.int64(0)))


def _integers(*values: int) -> Node:
    return ops.constant(np.array(values, dtype=np.int64))
