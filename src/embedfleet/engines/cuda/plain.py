"""The operations between matrix products in plain torch: the reference for the fused kernels.

Used on CPUs and for float32, and in tests as what the kernels are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from embedfleet.engines.cuda.layout import Layout, Shape
from embedfleet.engines.cuda.linear import Ready, quantised
from embedfleet.engines.cuda.memory import BLOCK_TOKENS
from embedfleet.engines.qwen3 import Qwen3Config

WHOLE_TOKENS: Final = 2_048
"""Texts up to this many tokens may have a square matrix for each head."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Which rows of a pass are which texts, on the device and, as `layout`, here."""

    layout: Layout
    positions: Tensor
    """Of each row in its text, [tokens]."""
    pooled: Tensor
    """Each text's last row, [texts]."""
    tiles: Tensor
    last_tiles: Tensor


def parts_of(inputs: Tensor, shape: Shape, layout: Layout) -> tuple[Tensor, Texts]:
    """Token ids, and the texts they are of, as views of what `layout` wrote: [shape.size]."""
    parts = {name: inputs[where] for name, where in shape.parts.items()}
    ids = parts.pop("ids")
    return ids, Texts(layout, **parts)


@dataclass(frozen=True, slots=True)
class Rotation:
    """RoPE's table on the device, each [positions, head_dim / 2] float32."""

    cosines: Tensor
    sines: Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """What attention is made of, as it leaves its products; rows are tokens, all heads in each."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    query_norm: Tensor
    key_norm: Tensor


class Operations(Protocol):
    """All that is computed between the matrix products."""

    def norm(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Ready:
        """Add `delta` to `x` in place, then its RMS norm, ready for matrices."""
        ...

    def gate(self, gate_up: Tensor) -> Ready:
        """SwiGLU of rows [gate, up]."""
        ...

    def attend(self, heads: Heads, texts: Texts, *, last: bool) -> Ready:
        """Norm and RoPE of queries and keys, and causal attention within each text, ready for
        matrices.

        [queries, heads * head_dim]. `last`: there is one query per text, its last token's. What is
        in `heads` may be overwritten.
        """
        ...

    def unit(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Tensor:
        """RMS norm of the rows of `x + delta`, at length 1, float32."""
        ...


class PlainOperations:
    """In torch's own operations; any device, any numbers."""

    def __init__(self, config: Qwen3Config, rotation: Rotation, *, fp8: bool) -> None:
        self._config = config
        self._rotation = rotation
        self._fp8 = fp8

    def norm(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Ready:
        if delta is not None:
            x.add_(delta)
        return self._made_ready(self._normed(x, weight), x.dtype)

    def gate(self, gate_up: Tensor) -> Ready:
        gate, up = gate_up.float().chunk(2, dim=1)
        return self._made_ready(functional.silu(gate) * up, gate_up.dtype)

    def attend(self, heads: Heads, texts: Texts, *, last: bool) -> Ready:
        config, layout = self._config, texts.layout
        asking = texts.positions.index_select(0, texts.pooled) if last else texts.positions
        queries = self._turned(heads.queries, asking, heads.query_norm)
        keys = self._turned(heads.keys, texts.positions, heads.key_norm)
        out = queries.new_zeros(queries.shape)
        for index, (begin, end) in enumerate(pairwise(layout.begins.tolist())):
            shared, lent = int(layout.shared[index]), int(layout.lent[index])
            own = slice(begin, end)
            seen: slice | list[int] = own
            if shared:
                seen = [*range(lent, lent + shared), *range(begin, end)]
            asked = seen  # shared tokens once more: numbers must not tell what is shared
            if last:
                own = asked = slice(index, index + 1)
            found = attention_of_one(
                *(queries[asked], keys[seen], heads.values[seen]), config, causal=not last
            )
            out[own] = found if last else found[shared:]
        return self._made_ready(out, out.dtype)

    def _turned(self, x: Tensor, positions: Tensor, norm: Tensor) -> Tensor:
        """Norm and RoPE of the heads in the rows of `x`."""
        cosines = self._rotation.cosines[positions].unsqueeze(1)
        sines = self._rotation.sines[positions].unsqueeze(1)
        states = self._normed(x.unflatten(1, (-1, self._config.head_dim)), norm)
        first, second = states.chunk(2, dim=-1)
        turned = torch.cat(
            (first * cosines - second * sines, second * cosines + first * sines), dim=-1
        )
        return turned.flatten(1).to(x.dtype)

    def unit(self, x: Tensor, weight: Tensor, delta: Tensor | None) -> Tensor:
        states = self._normed(x if delta is None else x + delta, weight)
        # A length of zero or infinity makes the row NaN, which is refused as a vector.
        return states / states.double().square().sum(1, keepdim=True).sqrt().float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        squares = wide.square().mean(dim=-1, keepdim=True)
        return wide * torch.rsqrt(squares + self._config.epsilon) * weight.float()

    def _made_ready(self, values: Tensor, dtype: torch.dtype) -> Ready:
        return Ready(*quantised(values)) if self._fp8 else Ready(values.to(dtype))


def attention_of_one(
    queries: Tensor, keys: Tensor, values: Tensor, config: Qwen3Config, *, causal: bool
) -> Tensor:
    """Of one text's rows; `causal` unless the only query is the last token's.

    Torch has no kernel for all of these numbers, devices and shared key heads that holds no square
    matrix, so queries of long texts come in blocks, each with the keys that it may see.
    """
    if not causal or len(queries) <= WHOLE_TOKENS:
        return _attended(queries, keys, values, config, None, causal=causal)
    blocks = []
    places = torch.arange(len(keys), device=keys.device)
    for begin in range(0, len(queries), BLOCK_TOKENS):
        end = min(begin + BLOCK_TOKENS, len(queries))
        visible = places[None, :end] <= places[begin:end, None]
        seen = keys[:end], values[:end]
        blocks.append(_attended(queries[begin:end], *seen, config, visible, causal=False))
    return torch.cat(blocks)


def _attended(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    config: Qwen3Config,
    visible: Tensor | None,
    *,
    causal: bool,
) -> Tensor:
    def split(x: Tensor, heads: int) -> Tensor:
        return x.unflatten(1, (heads, config.head_dim)).transpose(0, 1).unsqueeze(0)

    found = functional.scaled_dot_product_attention(
        split(queries, config.heads),
        split(keys, config.kv_heads),
        split(values, config.kv_heads),
        attn_mask=visible,
        is_causal=causal,
        enable_gqa=True,
    )
    return found[0].transpose(0, 1).flatten(1)
