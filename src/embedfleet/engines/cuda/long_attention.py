"""Attention of long texts by cuDNN's Hopper kernels.

cuDNN builds a plan for every new size (40 ms), so sizes are rounded up: causality hides the padding
from a text's own tokens, and the padding's rows are discarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from embedfleet.engines.cuda.layout import Layout
from embedfleet.engines.qwen3 import Qwen3Config

_STEPS: Final = 8
"""Sizes between one power of two and the next: at most an eighth is computed in vain."""
_SMALLEST: Final = 256


class LongAttention:
    """Causal attention of texts, one by one or several of the same length at once."""

    def __init__(self, config: Qwen3Config) -> None:
        self._config = config

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, group: Group) -> Tensor:
        """Of the texts in `group`, whose rows these are; queries and keys are normed and turned.

        [texts, tokens, heads, head_dim].
        """
        size = padded_size(group.tokens)
        heads, kv_heads = self._config.heads, self._config.kv_heads
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            attended = functional.scaled_dot_product_attention(
                self._split(queries, heads, group, size),
                self._split(keys, kv_heads, group, size),
                self._split(values, kv_heads, group, size),
                is_causal=True,
                enable_gqa=True,
            )
        return attended.transpose(1, 2)[:, : group.tokens]

    def _split(self, x: Tensor, heads: int, group: Group, size: int) -> Tensor:
        """Rows as heads, [texts, heads, size, head_dim]; a view if nothing is to be padded."""
        texts = x.unflatten(0, (group.count, group.tokens))
        if size > group.tokens:
            # With zeros: the next text's NaN would come through, as 0 times NaN is NaN.
            texts = functional.pad(texts, (0, 0, 0, size - group.tokens))
        return texts.unflatten(2, (heads, self._config.head_dim)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of the same length that lie one behind the other."""

    begin: int
    tokens: int
    count: int


def groups(layout: Layout) -> Iterator[Group]:
    """The texts of a pass that have no tiles, those of equal length together."""
    at = 0
    alone = layout.alone
    while at < len(alone):
        first = at
        tokens = layout.lengths[alone[first]]
        while (
            at < len(alone)
            and alone[at] == alone[first] + at - first
            and layout.lengths[alone[at]] == tokens
        ):
            at += 1
        yield Group(int(layout.begins[alone[first]]), tokens, at - first)


def padded_size(tokens: int) -> int:
    """The least of the sizes that cuDNN is asked for which holds `tokens`."""
    step = max(_SMALLEST, (1 << (tokens - 1).bit_length()) // 2 // _STEPS)
    return -(-tokens // step) * step


def load_cudnn(config: Qwen3Config, device: torch.device) -> None:
    """Have cuDNN loaded, which takes the better part of a second, by asking it for a small text.

    What goes wrong here will be told where it matters, by the first long text.
    """
    with (
        suppress(RuntimeError),
        torch.inference_mode(),
        torch.cuda.stream(torch.cuda.Stream(device)),
    ):
        sizes = config.heads, config.kv_heads, config.kv_heads
        rows = [
            torch.zeros(_SMALLEST, heads * config.head_dim, dtype=torch.bfloat16, device=device)
            for heads in sizes
        ]
        LongAttention(config).attend(rows[0], rows[1], rows[2], Group(0, _SMALLEST, 1))
        torch.cuda.current_stream(device).synchronize()
