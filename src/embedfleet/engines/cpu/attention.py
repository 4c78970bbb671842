"""Causal attention within each text as OpenVINO operations: paged, or padded.

Queries, keys and values of all texts are concatenated; this module brings them into the layout that
the CPU plugin's attention node takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import openvino.opset13 as ops
from openvino.op import _PagedAttentionExtension as PagedAttention

from embedfleet.engines.cpu.layout import BLOCK_TOKENS
from embedfleet.engines.qwen3 import Qwen3Config

Node: TypeAlias = Any  # OpenVINO ships no types
Attending: TypeAlias = Literal["paged", "padded"]
"""Paged attention, which the plugin has for AVX2, AVX-512 and SVE; or texts padded to the longest
of their pass, on all others."""


class Attention(Protocol):
    """A kind of attention, with the graph inputs that describe the texts to it."""

    def parameters(self) -> list[Node]:
        """The inputs, named as the layouts name their indices."""
        ...

    def attend(self, queries: Node, keys: Node, values: Node, at: Node | None) -> Node:
        """From [tokens, heads or kv_heads * head_dim] to [tokens, heads * head_dim].

        With `at` (row numbers [texts], one of each text) the queries are those of these rows
        alone, [texts, heads * head_dim], and so is what comes out.
        """
        ...


def make_attention(way: Attending, config: Qwen3Config) -> Attention:
    return Paged.make(config) if way == "paged" else Padded.make(config)


@dataclass(frozen=True, slots=True)
class Paged:
    """OpenVINO's paged attention.

    It computes texts of any lengths lying end to end, skips what causality hides, and holds no
    [tokens, tokens] matrix. It puts keys and values into scratch blocks first; as layers run one
    after another, all of them use the same scratch.
    """

    config: Qwen3Config
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

    @classmethod
    def make(cls, config: Qwen3Config) -> Paged:
        scratch = [-1, config.kv_heads, BLOCK_TOKENS, config.head_dim]
        return cls(
            config,
            keys=parameter("keys", scratch, np.float32),
            values=parameter("values", scratch, np.float32),
            past=parameter("past", [-1], np.int32),
            begins=parameter("begins", [-1], np.int32),
            blocks=parameter("blocks", [-1], np.int32),
            block_begins=parameter("block_begins", [-1], np.int32),
            longest=parameter("longest", [], np.int32),
        )

    def parameters(self) -> list[Node]:
        first = [self.keys, self.values, self.past, self.begins]
        return [*first, self.blocks, self.block_begins, self.longest]

    def attend(self, queries: Node, keys: Node, values: Node, at: Node | None) -> Node:
        if at is not None:
            queries = _spread(queries, at, values)
        none = ops.constant(np.zeros(0, dtype=np.int32))
        no_floats = ops.constant(np.zeros(0, dtype=np.float32))
        zero = ops.constant(np.int32(0))
        arguments = [queries, keys, values, self.keys, self.values]
        arguments += [self.past, self.begins, self.blocks, self.block_begins]
        arguments += [
            ops.constant(np.float32(self.config.head_dim**-0.5)),
            zero,  # no sliding window
            no_floats,  # no ALiBi
            self.longest,
            none,  # no aggregated scores
            # No rotated blocks:
            none,
            none,
            no_floats,
            # Nothing sparse:
            no_floats,
            ops.constant(np.int32(64)),
            ops.constant(np.int32(8)),
            no_floats,  # no attention sinks
            # No cache eviction:
            zero,
            none,
            none,
            none,
            none,  # no token types
            # No bias between queries:
            ops.constant(np.zeros(0, dtype=np.uint8)),
            none,
        ]
        node = PagedAttention([argument.output(0) for argument in arguments])
        facts = node.get_rt_info()
        facts["num_k_heads"] = facts["num_v_heads"] = self.config.kv_heads
        facts["k_head_size"] = facts["v_head_size"] = self.config.head_dim
        # The node knows its output's width only when it runs.
        width = self.config.heads * self.config.head_dim
        attended = ops.reshape(node.output(0), integers(-1, width), special_zero=False)
        return attended if at is None else rows(attended, at)


@dataclass(frozen=True, slots=True)
class Padded:
    """Scaled dot products of texts side by side, each padded to the longest by its last token.

    A text has a place of its own in the batch: numbers that overflow in one reach no other. Only
    attention is padded; all other operations see the texts end to end.
    """

    config: Qwen3Config
    grid: Node
    """The row of each token of each text, [texts, longest]; behind its end, of its last one."""
    places: Node
    """Where in the flattened grid each row is, [tokens]."""

    @classmethod
    def make(cls, config: Qwen3Config) -> Padded:
        grid, places = parameter("grid", [-1, -1], np.int32), parameter("places", [-1], np.int32)
        return cls(config, grid, places)

    def parameters(self) -> list[Node]:
        return [self.grid, self.places]

    def attend(self, queries: Node, keys: Node, values: Node, at: Node | None) -> Node:
        heads, shared, width = self.config.heads, self.config.kv_heads, self.config.head_dim
        texts = ops.gather(ops.shape_of(self.grid), integers(0), ops.constant(np.int64(0)))
        keys, values = rows(keys, self.grid), rows(values, self.grid)
        if at is None:
            asking, queries = self.grid, rows(queries, self.grid)
        else:
            asking = ops.unsqueeze(at, integers(1))
        attended = ops.scaled_dot_product_attention(
            _heads_first(queries, texts, heads, width),
            _heads_first(keys, texts, shared, width, heads // shared),
            _heads_first(values, texts, shared, width, heads // shared),
            self._visible(asking),
            ops.constant(np.float32(width**-0.5)),
        )
        flat = ops.reshape(
            ops.transpose(attended, integers(0, 2, 1, 3)),
            integers(-1, heads * width),
            special_zero=False,
        )
        return rows(flat, self.places) if at is None else flat

    def _visible(self, asking: Node) -> Node:
        """Which keys the rows `asking` [texts, n] may see: up to their own; [texts, 1, n, longest].

        That hides padding too, as it comes after all that a text has. One byte an element; for
        `causal=True` the plugin makes a mask of eight.
        """
        zero, axis = ops.constant(np.int32(0)), ops.constant(np.int64(0))
        begins = ops.gather(self.grid, integers(0), ops.constant(np.int64(1)))  # [texts, 1]
        longest = ops.gather(ops.shape_of(self.grid, "i32"), ops.constant(np.int32(1)), axis)
        keys = ops.range(zero, longest, ops.constant(np.int32(1)), "i32")
        return ops.less_equal(keys, ops.unsqueeze(ops.subtract(asking, begins), integers(1, 3)))


def _heads_first(x: Node, texts: Node, heads: int, width: int, repeats: int = 1) -> Node:
    """[texts, n, heads * width] to [texts, heads * repeats, n, width]."""
    shape = ops.concat([texts, integers(-1, heads, width)], 0)
    split = ops.reshape(x, shape, special_zero=False)
    if repeats > 1:
        each = integers(*np.repeat(np.arange(heads), repeats))
        split = ops.gather(split, each, ops.constant(np.int64(2)))
    return ops.transpose(split, integers(0, 2, 1, 3))


def _spread(x: Node, indices: Node, like: Node) -> Node:
    """Rows `x` at `indices` among zeros, with as many rows as `like`.

    Paged attention wants a query for every key; rows that are not read may be zero.
    """
    count = ops.gather(ops.shape_of(like), integers(0), ops.constant(np.int64(0)))
    width = x.output(0).partial_shape[1].get_length()
    zeros = ops.broadcast(np.float32(0), ops.concat([count, integers(width)], 0))
    return ops.scatter_update(zeros, indices, x, ops.constant(np.int64(0)))


def rows(x: Node, indices: Node) -> Node:
    """Rows of `x` at `indices`."""
    return ops.gather(x, indices, ops.constant(np.int64(0)))


def parameter(name: str, shape: list[int], dtype: type[np.generic]) -> Node:
    """Make an input of the graph; -1 is a dynamic size."""
    node = ops.parameter(shape, dtype, name=name)
    node.output(0).set_names({name})
    return node


def integers(*values: int) -> Node:
    return ops.constant(np.array(values, dtype=np.int64))
